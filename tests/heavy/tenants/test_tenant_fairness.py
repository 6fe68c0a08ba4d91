"""The rule of a filling node: half of it for whoever comes, then everyone's share, and all of it for one who is alone."""

from __future__ import annotations

import pytest

from heavy.tenants.fairness import may_enter, share_of


@pytest.mark.parametrize(
    ("max_inflight", "tenants", "share"), [(100, 1, 100), (100, 2, 50), (100, 3, 33), (100, 200, 1), (1, 5, 1), (10, 0, 10)]
)
def test_shares(max_inflight: int, tenants: int, share: int) -> None:
    assert share_of(max_inflight, tenants) == share


@pytest.mark.parametrize(
    ("room", "held", "tenants", "enters"),
    [
        (100, 0, 1, True),
        (50, 50, 2, True),  # half full: nobody is asked
        (49, 49, 2, True),  # more than half full, but below its share
        (49, 50, 2, False),
        (49, 51, 2, False),
        (1, 99, 1, True),  # alone
        (1, 98, 2, False),
        (1, 0, 2, True),
        (40, 19, 5, True),
        (40, 20, 5, False),
        (10, 0, 300, True),  # more tenants than places: one each
        (10, 1, 300, False),
        (0, 90, 2, True),  # full, or draining: the node says so itself
    ],
)
def test_who_may_enter(room: int, held: int, tenants: int, enters: bool) -> None:
    assert may_enter(room=room, max_inflight=100, held=held, tenants=tenants) is enters


def test_a_greedy_tenant_leaves_room_for_one_that_comes_late() -> None:
    """A has filled the node to its share when B comes: B gets in until it has its share, too, and A gets nothing more."""
    held = {"a": 0, "b": 0}

    def comes(tenant: str) -> bool:
        tenants = len([t for t, n in held.items() if n or t == tenant])
        room = 10 - sum(held.values())
        if room and may_enter(room=room, max_inflight=10, held=held[tenant], tenants=tenants):
            held[tenant] += 1
            return True
        return False

    while held["a"] < 7 and comes("a"):
        pass
    assert held["a"] == 7
    assert comes("b")
    assert not comes("a")
    assert comes("b")
    assert comes("b")
    assert held == {"a": 7, "b": 3}
    held["a"] = 4
    assert comes("a")
    assert not comes("a")
