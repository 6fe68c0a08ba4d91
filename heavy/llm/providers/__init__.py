"""One file for each wire protocol of an LLM provider. Only these files know an SDK; everything else speaks heavy.llm.types."""
