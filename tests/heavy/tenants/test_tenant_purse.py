"""Budgets hold though many calls run at once: by tenant and by key, over replicas, with and without a hot store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.contracts.access import Access, Key, KeyLimits
from common.contracts.query import Usage
from common.errors import BudgetExceeded
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from common.web.background import stop
from heavy.llm.ledger import Ledger
from heavy.llm.types import CallUsage, Spender
from heavy.tenants.purse import Purse
from heavy.tenants.spending import Spending
from heavy.turns.stores import Stores
from tests.heavy.tenants.conftest import ring_with
from tests.support.ledger import call
from tests.support.services import free_port
from tests.support.waiting import wait_until

CALLERS = 64
MOST = 100  # tokens that a call may use at most
ACME, KEY = Spender("acme"), Spender("acme", key_id="k1")


def purse(stores: Stores, hotstore: HotStore, ring: KeyRing, ledger: Ledger | None = None, metrics: Metrics | None = None) -> Purse:
    """The purse of one replica."""
    written = (ledger or Ledger(stores.ledger, Metrics())).caught_up
    return Purse(Spending(stores.ledger, hotstore), ring, written, metrics or Metrics())


def key_ring(**limits: float) -> KeyRing:
    """A ring in which the tenant acme has a key with these limits, and no limits itself."""
    ring = KeyRing()
    ring.use(Access(1, True, (Key("k1", "acme", frozenset({"llm"}), b"d", None, KeyLimits(**limits)),)))  # type: ignore[arg-type]
    return ring


@asynccontextmanager
async def writing(ledger: Ledger) -> AsyncIterator[None]:
    task = asyncio.create_task(ledger.run())
    try:
        yield
    finally:
        await stop(task)


async def spend_all(replicas: list[tuple[Purse, Ledger]], spender: Spender) -> tuple[int, int]:
    """64 callers, each of which calls as often as it may; every call uses what was set aside for it. How many calls there were, and how
    many at once at most."""
    made = running = peak = 0

    async def caller(number: int) -> None:
        nonlocal made, running, peak
        mine, ledger = replicas[number % len(replicas)]
        while True:
            try:
                settle = await mine.reserve(spender, MOST, 0.001)
            except BudgetExceeded as e:
                if (e.retry_after or 0) > 1:
                    return
                await asyncio.sleep(0)  # what is left is set aside for others, who may use less of it
                continue
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running, made = running - 1, made + 1
            used = CallUsage(1, MOST - 10, 0, 10, 0.001)
            ledger.record(call(f"c{number}-{made}", spender, used, began=time.time()))
            settle(used)

    await asyncio.gather(*(caller(n) for n in range(CALLERS)))
    for mine, ledger in replicas:
        await ledger.flush()
        await mine.aclose()
    return made, peak


@pytest.mark.parametrize("where", ["memory", "redis"])
@pytest.mark.parametrize(
    ("ring", "spender"), [(ring_with(acme={"tokens_per_day": 4950}), ACME), (key_ring(cost_usd_per_day=0.0495), KEY)], ids=["tenant", "key"]
)
async def test_64_callers_pass_a_limit_by_one_call_at_most(
    stores: Stores, where: str, ring: KeyRing, spender: Spender, request: pytest.FixtureRequest
) -> None:
    url = "memory://" if where == "memory" else request.getfixturevalue("redis_database")
    one = open_hotstore(url)
    two = open_hotstore(url) if where == "redis" else one
    try:
        replicas = []
        for hotstore in (one, two):
            ledger = Ledger(stores.ledger, Metrics())
            replicas.append((purse(stores, hotstore, ring, ledger), ledger))
        made, peak = await spend_all(replicas, spender)
        assert made == 50  # 4 950 tokens are left for 49 calls and a half
        assert peak > 1
        spent = await stores.ledger.spent("acme", None, day=time.strftime("%Y-%m-%d", time.gmtime()))
        assert (spent.tokens, spent.cost_nano) == (5000, 50_000_000)
    finally:
        await one.aclose()
        await two.aclose()


async def test_a_refusal_names_the_limit_and_when_it_is_over(stores: Stores) -> None:
    metrics = Metrics()
    mine = purse(stores, MemoryHotStore(), key_ring(tokens_per_day=100), metrics=metrics)
    settle = await mine.reserve(KEY, 150, 0)
    with pytest.raises(BudgetExceeded, match="the rest is set aside for calls that run now") as caught:
        await mine.reserve(KEY, 1, 0)
    assert (caught.value.retry_after, caught.value.extra["used"]) == (1, 0)
    settle(Usage(1, 90, 0, 10, 0))
    await wait_until(lambda: not mine._settling, "what was spent is counted")
    with pytest.raises(BudgetExceeded, match="this key may use 100 tokens a day") as caught:
        await mine.reserve(KEY, 1, 0)
    assert caught.value.extra == {"limit": "key_tokens_per_day", "value": 100, "used": 100}
    assert (caught.value.retry_after or 0) > 1
    assert metrics.registry.get_sample_value("loadsplit_quota_refusals_total", {"limit": "key_tokens_per_day"}) == 2
    await mine.reserve(ACME, 1, 0)  # the tenant has no limit, and neither has another key
    await mine.reserve(Spender("acme", key_id="k2"), 1, 0)


async def test_what_was_not_used_is_free_again(stores: Stores) -> None:
    hotstore, ring = MemoryHotStore(), ring_with(acme={"tokens_per_day": 100})
    mine = purse(stores, hotstore, ring)
    for usage in (None, Usage(1, 30, 0, 10, 0)):
        settle = await mine.reserve(ACME, 100, 0)
        settle(usage)
        settle(usage)  # a second time changes nothing
        await wait_until(lambda: not mine._settling, "it is counted")
    account = await Spending(stores.ledger, hotstore).account(("acme", None))
    assert (account.spent[0], account.reserved[0]) == (40, 0)


async def test_a_key_that_is_refused_takes_nothing_from_its_tenant(stores: Stores) -> None:
    hotstore, ring = MemoryHotStore(), KeyRing()
    key = Key("k1", "acme", frozenset({"llm"}), b"d", None, KeyLimits(tokens_per_day=0))
    ring.use(Access(1, True, (key,), {"acme": {"tokens_per_day": 100}}))
    mine = purse(stores, hotstore, ring)
    with pytest.raises(BudgetExceeded, match="this key"):
        await mine.reserve(KEY, 50, 0)
    await wait_until(lambda: not mine._settling, "it is given back")
    assert (await Spending(stores.ledger, hotstore).account(("acme", None))).reserved == (0, 0)


async def test_what_was_spent_and_is_not_written_yet_is_not_forgotten(stores: Stores) -> None:
    """The figures of the ledger are taken anew at a moment at which a line still waits."""
    hotstore, ring = MemoryHotStore(), ring_with(acme={"tokens_per_day": 10_000})
    ledger = Ledger(stores.ledger, Metrics())
    mine = purse(stores, hotstore, ring, ledger)
    settle = await mine.reserve(ACME, 500, 0)
    used = CallUsage(1, 100, 0, 20, 0)
    ledger.record(call(usage=used, began=time.time()))
    settle(used)
    await asyncio.sleep(0)
    key = keys.spent(time.strftime("%Y-%m-%d", time.gmtime()), "acme")
    hotstore._account(key).known_until = 0.0
    assert (await Spending(stores.ledger, hotstore).account(("acme", None))).spent[0] == 120
    async with writing(ledger):
        await wait_until(lambda: not mine._settling, "the line is written")
    hotstore._account(key).known_until = 0.0
    assert (await Spending(stores.ledger, hotstore).account(("acme", None))).spent[0] == 120


async def test_what_a_killed_process_has_set_aside_is_free_after_a_while(stores: Stores) -> None:
    now = [1000.0]
    hotstore, ring = MemoryHotStore(clock=lambda: now[0]), ring_with(acme={"tokens_per_day": 100})
    await purse(stores, hotstore, ring).reserve(ACME, 100, 0)
    living = purse(stores, hotstore, ring)
    with pytest.raises(BudgetExceeded):
        await living.reserve(ACME, 1, 0)
    now[0] += keys.HELD_TTL
    await living.reserve(ACME, 100, 0)
    now[0] += keys.HELD_TTL - 1
    await living._spending.keep([one for held in living._held.values() for one in held])
    now[0] += keys.HELD_TTL - 1
    with pytest.raises(BudgetExceeded):
        await living.reserve(ACME, 1, 0)


async def test_without_a_hot_store_each_process_holds_the_limit(stores: Stores) -> None:
    away = open_hotstore(f"redis://127.0.0.1:{free_port()}/0")
    try:
        ledger = Ledger(stores.ledger, Metrics())
        mine = purse(stores, away, ring_with(acme={"tokens_per_day": 950}), ledger)
        made, _ = await spend_all([(mine, ledger)], ACME)
        assert made == 10
    finally:
        await away.aclose()


async def test_without_a_limit_no_store_is_touched(stores: Stores) -> None:
    mine = purse(stores, MemoryHotStore(), ring_with(other={"tokens_per_day": 1}))
    await stores.aclose()
    settle = await mine.reserve(KEY, 10**9, 10**6)
    settle(None)
    assert not mine._settling
