"""Stand-ins for the outside world, shipped: an LLM in two wire formats, and the business APIs of the example."""
