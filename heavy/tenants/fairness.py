"""Who may still enter a node that is filling up. A rule only: it counts nothing itself."""

from __future__ import annotations


def share_of(max_inflight: int, tenants: int) -> int:
    """How many turns of a full node are one tenant's, where so many tenants have turns in it: at least 1."""
    return max(1, max_inflight // max(1, tenants))


def may_enter(*, room: int, max_inflight: int, held: int, tenants: int) -> bool:
    """Whether a tenant that has `held` turns in a node may have one more there; `room` is what the node still takes, `tenants` how many of
    them have turns in it, this one included.

    Up to half of the node whoever comes may enter. Beyond that a tenant has its share; one that is alone may have all. A node that takes
    nothing more (it is full, or drains) says so itself, to whoever comes.
    """
    if tenants <= 1 or room <= 0 or 2 * (max_inflight - room) <= max_inflight:
        return True
    return held < share_of(max_inflight, tenants)
