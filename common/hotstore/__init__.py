"""The hot store: what can be rebuilt, shared by all replicas. In process (memory://) or Redis; `open.py` chooses by URL."""
