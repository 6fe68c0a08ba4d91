"""The stateless tier: decides what answers a message, answers by rule, or hands the request on to heavy. It holds no session and no LLM."""
