"""Whose work it is and how much of it they may ask for: API keys, limits of tenants, the share of each in a full node."""
