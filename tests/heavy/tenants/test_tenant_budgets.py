"""What a tenant has spent today, as a turn that wants to begin is told: from the ledger, refused at the limit, anew at midnight UTC."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.errors import BudgetExceeded
from common.hotstore.accounts import Account
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.web.auth import KeyRing
from heavy.llm.legs import CallRecord
from heavy.llm.stores import Expense
from heavy.llm.types import CallUsage
from heavy.tenants.budgets import check
from heavy.tenants.spending import DAY, Spending
from heavy.turns.stores import DatabaseUnavailable, Stores
from tests.heavy.tenants.conftest import ring_with
from tests.support.ledger import call
from tests.support.services import free_port

ACME = ("acme", None)


def spent(at: float | None = None, call_id: str = "c1") -> CallRecord:
    """A call of 120 tokens for a quarter of a dollar."""
    return call(call_id, usage=CallUsage(2, 100, 50, 20, 0.25), began=at or time.time())


async def may(spending: Spending, ring: KeyRing, tenant: str = "acme") -> None:
    await check(spending, tenant, ring.limits_of(tenant))


async def test_without_a_budget_nothing_is_asked(stores: Stores) -> None:
    ring = ring_with(acme={"requests_per_minute": 5})
    await stores.aclose()
    spending = Spending(stores.ledger, MemoryHotStore())
    await may(spending, ring)
    with pytest.raises(DatabaseUnavailable):
        await spending.account(ACME)


async def test_the_day_begins_with_what_the_ledger_has(stores: Stores) -> None:
    await stores.ledger.record([spent()])
    ring = ring_with(acme={"tokens_per_day": 121}, other={"tokens_per_day": 1})
    spending = Spending(stores.ledger, MemoryHotStore())
    await may(spending, ring)
    await may(spending, ring, "other")
    assert await spending.account(ACME) == Account((120, 250_000_000), (0, 0))
    aside, _ = await spending.set_aside(ACME, "h", (50, 50), (None, None))
    await may(spending, ring)  # a turn is not refused for what others have only set aside
    assert aside is not None
    await spending.settle(aside, (1, 0))
    with pytest.raises(BudgetExceeded) as caught:
        await may(spending, ring)
    left = DAY - time.time() % DAY
    extra = caught.value.extra
    assert (extra["limit"], extra["value"], extra["used"]) == ("tokens_per_day", 121, 121)
    assert caught.value.retry_after is not None
    assert left - 60 < caught.value.retry_after <= left + 1


async def test_money_has_a_limit_of_its_own(stores: Stores) -> None:
    ring = ring_with(acme={"cost_usd_per_day": 0.5, "tokens_per_day": 10**9})
    await stores.ledger.record([spent()])
    await may(Spending(stores.ledger, MemoryHotStore()), ring)
    await stores.ledger.record([spent(call_id="c2")])
    with pytest.raises(BudgetExceeded) as caught:
        await may(Spending(stores.ledger, MemoryHotStore()), ring)
    assert (caught.value.extra["limit"], caught.value.extra["value"], caught.value.extra["used"]) == ("cost_usd_per_day", 0.5, 0.5)
    assert "0.5 US dollars a day" in caught.value.detail


async def test_a_budget_of_nothing_is_spent_from_the_start(stores: Stores) -> None:
    for limits in ({"tokens_per_day": 0}, {"cost_usd_per_day": 0}):
        with pytest.raises(BudgetExceeded):
            await may(Spending(stores.ledger, MemoryHotStore()), ring_with(acme=limits))


async def test_midnight_begins_a_new_day(stores: Stores) -> None:
    now = [time.time() // DAY * DAY + DAY - 1.5]
    ring = ring_with(acme={"tokens_per_day": 100})
    await stores.ledger.record([spent(now[0])])
    spending = Spending(stores.ledger, MemoryHotStore(), clock=lambda: now[0])
    with pytest.raises(BudgetExceeded) as caught:
        await may(spending, ring)
    assert caught.value.retry_after == 2
    now[0] += 1.5
    await may(spending, ring)


async def test_replicas_share_the_figures_and_ask_the_database_once(stores: Stores, redis_database: str) -> None:
    await stores.ledger.record([spent()])
    one, two = open_hotstore(redis_database), open_hotstore(redis_database)
    asked = []

    class Counting:
        async def spent(self, tenant: str, key_id: str | None, *, day: str) -> Expense:
            asked.append(day)
            return await stores.ledger.spent(tenant, key_id, day=day)

    try:
        first, second = (Spending(Counting(), store) for store in (one, two))  # type: ignore[arg-type]
        begun = Account((120, 250_000_000), (0, 0))
        assert await asyncio.gather(*(first.account(ACME) for _ in range(10))) == [begun] * 10
        aside, _ = await first.set_aside(ACME, "h", (7, 7), (None, None))
        assert await second.account(ACME) == Account(begun.spent, (7, 7))
        assert aside is not None
        await first.settle(aside, (1, 1))
        assert await second.account(ACME) == Account((121, 250_000_001), (0, 0))
        assert len(asked) == 1
    finally:
        await one.aclose()
        await two.aclose()


async def test_without_the_hot_store_the_ledger_is_asked(stores: Stores) -> None:
    away = open_hotstore(f"redis://127.0.0.1:{free_port()}/0")
    try:
        ring = ring_with(acme={"tokens_per_day": 120})
        spending = Spending(stores.ledger, away)
        await may(spending, ring)
        aside, _ = await spending.set_aside(ACME, "h", (9, 9), (None, None))
        assert aside is not None
        await spending.settle(aside, (120, 0))
        with pytest.raises(BudgetExceeded):
            await may(spending, ring)
    finally:
        await away.aclose()
