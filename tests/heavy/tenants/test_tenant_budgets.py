"""What a tenant has spent today: from the database once, then by what its turns add; refused at the limit, anew at midnight UTC."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.contracts.query import Usage
from common.errors import BudgetExceeded
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.web.auth import KeyRing
from heavy.tenants.budgets import DAY, Budgets
from heavy.tenants.stores import Spent
from heavy.turns.stores import DatabaseUnavailable, Stores
from tests.heavy.tenants.conftest import ring_with
from tests.support.services import free_port
from tests.support.turns import answer, talk

SPENT = Usage(2, 100, 50, 20, 0.25)


async def check(budgets: Budgets, ring: KeyRing, tenant: str = "acme") -> None:
    await budgets.check(tenant, ring.limits_of(tenant))


async def test_without_a_budget_nothing_is_asked(stores: Stores) -> None:
    ring = ring_with(acme={"requests_per_minute": 5})
    await stores.aclose()
    budgets = Budgets(stores.access, MemoryHotStore(), ring)
    await check(budgets, ring)
    await budgets.ended("acme", SPENT)
    with pytest.raises(DatabaseUnavailable):
        await budgets.spent("acme")


async def test_the_day_begins_with_what_the_database_has(stores: Stores) -> None:
    await talk(stores, "t_1", answer(usage=SPENT))
    ring = ring_with(acme={"tokens_per_day": 121}, other={"tokens_per_day": 1})
    budgets = Budgets(stores.access, MemoryHotStore(), ring)
    await check(budgets, ring)
    await check(budgets, ring, "other")
    assert await budgets.spent("acme") == Spent(120, 0.25)
    await budgets.ended("acme", Usage(1, 1, 0, 0, 0))
    with pytest.raises(BudgetExceeded) as caught:
        await check(budgets, ring)
    left = DAY - time.time() % DAY
    extra = caught.value.extra
    assert (extra["limit"], extra["value"], extra["used"]) == ("tokens_per_day", 121, 121)
    assert caught.value.retry_after is not None
    assert left - 60 < caught.value.retry_after <= left + 1


async def test_money_has_a_limit_of_its_own(stores: Stores) -> None:
    ring = ring_with(acme={"cost_usd_per_day": 0.5, "tokens_per_day": 10**9})
    budgets = Budgets(stores.access, MemoryHotStore(), ring)
    await check(budgets, ring)
    for _ in range(2):
        await budgets.ended("acme", SPENT)
    with pytest.raises(BudgetExceeded) as caught:
        await check(budgets, ring)
    assert (caught.value.extra["limit"], caught.value.extra["used"]) == ("cost_usd_per_day", 0.5)


async def test_a_budget_of_nothing_is_spent_from_the_start(stores: Stores) -> None:
    ring = ring_with(acme={"tokens_per_day": 0})
    with pytest.raises(BudgetExceeded):
        await check(Budgets(stores.access, MemoryHotStore(), ring), ring)


async def test_a_turn_without_a_call_of_a_model_costs_nothing(stores: Stores) -> None:
    ring = ring_with(acme={"tokens_per_day": 100})
    budgets = Budgets(stores.access, MemoryHotStore(), ring)
    await check(budgets, ring)
    await budgets.ended("acme", Usage())
    assert await budgets.spent("acme") == Spent()


async def test_midnight_begins_a_new_day(stores: Stores) -> None:
    now = [time.time() // DAY * DAY + DAY - 1.5]
    ring = ring_with(acme={"tokens_per_day": 100})
    budgets = Budgets(stores.access, MemoryHotStore(), ring, clock=lambda: now[0])
    await check(budgets, ring)
    await budgets.ended("acme", SPENT)
    with pytest.raises(BudgetExceeded) as caught:
        await check(budgets, ring)
    assert caught.value.retry_after == 2
    now[0] += 1.5
    await check(budgets, ring)


async def test_replicas_share_the_figures_and_ask_the_database_once(stores: Stores, redis_database: str) -> None:
    await talk(stores, "t_1", answer(usage=SPENT))
    ring = ring_with(acme={"tokens_per_day": 1000})
    one, two = open_hotstore(redis_database), open_hotstore(redis_database)
    asked = []

    class Counting:
        async def spent(self, tenants: list[str], *, since: float) -> object:
            asked.append(since)
            return await stores.access.spent(tenants, since=since)

    try:
        first, second = (Budgets(Counting(), store, ring) for store in (one, two))  # type: ignore[arg-type]
        assert await asyncio.gather(*(first.spent("acme") for _ in range(10))) == [Spent(120, 0.25)] * 10
        await first.ended("acme", SPENT)
        assert await second.spent("acme") == Spent(240, 0.5)
        assert len(asked) == 1
    finally:
        await one.aclose()
        await two.aclose()


async def test_without_the_hot_store_the_database_is_asked(stores: Stores) -> None:
    away = open_hotstore(f"redis://127.0.0.1:{free_port()}/0")
    try:
        ring = ring_with(acme={"tokens_per_day": 120})
        budgets = Budgets(stores.access, away, ring)
        await check(budgets, ring)
        await budgets.ended("acme", SPENT)
        with pytest.raises(BudgetExceeded):
            await check(budgets, ring)
    finally:
        await away.aclose()
