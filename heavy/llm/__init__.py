"""The LLM gateway: provider-neutral types, targets behind aliases, providers. The only door to an LLM."""
