"""The hot path of the tier, and the same for clients that speak OpenAI's protocol."""
