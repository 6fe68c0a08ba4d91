"""What both tiers need of HTTP: problems, health, keys, server-sent events, middleware. It knows nothing of queries and turns."""
