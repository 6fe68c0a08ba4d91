"""The door of a turn: limits at once, the budget, the share in a full node. Who has no limits waits for nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from common.errors import BudgetExceeded, RateLimited
from common.hotstore.memory import MemoryHotStore
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from heavy.tenants.quotas import Node, Quotas
from heavy.tenants.spending import Spending
from heavy.turns.stores import Stores
from tests.heavy.tenants.conftest import ring_with
from tests.support.ledger import call
from tests.support.turns import accept, talk


@dataclass
class Place:
    """A node that holds what it is told to."""

    held: Counter[str] = field(default_factory=Counter)
    most: int = 100

    def quotas(self, stores: Stores, ring: KeyRing, metrics: Metrics | None = None) -> Quotas:
        """Its door."""
        node = Node(lambda: self.most, lambda: self.most - sum(self.held.values()), self.held)
        hotstore = MemoryHotStore()
        return Quotas(ring, stores.access, hotstore, node, metrics or Metrics(), Spending(stores.ledger, hotstore))


async def costly() -> bool:
    return True


async def free() -> bool:
    return False


async def test_a_tenant_without_limits_touches_no_store(stores: Stores) -> None:
    quotas = Place().quotas(stores, ring_with(other={"concurrent_turns": 1, "tokens_per_day": 1}))
    await stores.aclose()
    async with quotas.turn("acme", costly):
        pass


async def test_turns_at_once_are_those_of_all_replicas(stores: Stores) -> None:
    metrics = Metrics()
    quotas = Place().quotas(stores, ring_with(acme={"concurrent_turns": 2}), metrics)
    await accept(stores, "t_1", owner="another replica")
    async with quotas.turn("acme", costly):
        await accept(stores, "t_2", session_id="s2")
    with pytest.raises(RateLimited) as caught:
        async with quotas.turn("acme", costly):
            pass
    extra = caught.value.extra
    assert (extra["limit"], extra["value"], extra["used"], caught.value.retry_after) == ("concurrent_turns", 2, 2, 1)
    async with quotas.turn("other", costly):
        pass
    assert metrics.registry.get_sample_value("loadsplit_quota_refusals_total", {"limit": "concurrent_turns"}) == 1


async def test_many_at_once_are_no_more_than_the_limit(stores: Stores) -> None:
    quotas = Place().quotas(stores, ring_with(acme={"concurrent_turns": 3}))

    async def come(i: int) -> bool:
        try:
            async with quotas.turn("acme", costly):
                await accept(stores, f"t_{i}", session_id=f"s{i}")
        except RateLimited:
            return False
        return True

    assert sorted(await asyncio.gather(*(come(i) for i in range(20)))) == [False] * 17 + [True] * 3


async def test_an_ended_turn_makes_room(stores: Stores) -> None:
    quotas = Place().quotas(stores, ring_with(acme={"concurrent_turns": 1}))
    for i in range(3):
        async with quotas.turn("acme", costly):
            await talk(stores, f"t_{i}")


async def test_a_spent_budget_refuses_what_costs_and_nothing_else(stores: Stores) -> None:
    metrics = Metrics()
    quotas = Place().quotas(stores, ring_with(acme={"tokens_per_day": 10}), metrics)
    await stores.ledger.record([call(began=time.time())])
    async with quotas.turn("acme", free):
        pass
    with pytest.raises(BudgetExceeded):
        async with quotas.turn("acme", costly):
            pass
    assert metrics.registry.get_sample_value("loadsplit_quota_refusals_total", {"limit": "tokens_per_day"}) == 1


async def test_a_full_node_keeps_room_for_others(stores: Stores) -> None:
    place = Place(Counter(acme=6, other=1), most=10)
    quotas = place.quotas(stores, ring_with())
    with pytest.raises(RateLimited) as caught:
        async with quotas.turn("acme", costly):
            pass
    assert (caught.value.extra["limit"], caught.value.extra["value"], caught.value.extra["used"]) == ("fair_share", 5, 6)
    assert caught.value.retry_after == 1
    async with quotas.turn("other", costly), quotas.turn("third", costly):
        pass


async def test_those_that_are_just_coming_in_are_counted(stores: Stores) -> None:
    """A burst of one tenant is not let in because none of it has arrived yet."""
    place = Place(Counter(acme=4, other=2), most=10)
    quotas = place.quotas(stores, ring_with())
    async with quotas.turn("acme", costly):
        with pytest.raises(RateLimited):
            async with quotas.turn("acme", costly):
                pass
    async with quotas.turn("acme", costly):
        pass


async def test_one_tenant_alone_may_have_all(stores: Stores) -> None:
    place = Place(Counter(acme=9), most=10)
    async with place.quotas(stores, ring_with()).turn("acme", costly):
        pass
