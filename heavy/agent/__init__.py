"""The agent: an LLM loop with tools. It knows no HTTP, SSE, Redis, SQL or SDK: it takes a gateway, a toolbox and a history."""
