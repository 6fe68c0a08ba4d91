"""One declared HTTP call, done safely: templates, egress policy, circuit breaker, the call itself, and how its result becomes an answer."""
