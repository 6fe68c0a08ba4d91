"""Bare ASGI servers without sessions, errors or metrics: the ceilings beside which the real tiers are measured."""
