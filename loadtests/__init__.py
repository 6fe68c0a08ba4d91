"""Load: Locust users and the two stand-ins (LLM, business APIs). It knows the contracts of common, nothing of the tiers."""
