"""The stateful tier: conversations, agent skills, durable turns and the only door to an LLM."""
