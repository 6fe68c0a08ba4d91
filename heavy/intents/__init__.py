"""Which action answers a message, as an LLM decides it. Rules have spoken before; what the action then does is not known here."""
