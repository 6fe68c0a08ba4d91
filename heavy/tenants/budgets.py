"""What each tenant has spent today, and whether it may spend more. Days are those of UTC.

The figures stand in two counters of the hot store, which begin with the sums of the database and to which each turn adds at its end. They
are forgotten after ten minutes and taken from the database anew, so that what was counted twice, or not at all, because a process died or a
store was away is right again by then. Without the hot store the database is asked, every few seconds at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from common.contracts.access import Limits
from common.contracts.query import Usage
from common.errors import BudgetExceeded
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.web.auth import KeyRing
from common.web.rate import beyond
from heavy.tenants.stores import AccessStore, Spent

DAY = 86400.0
ALONE_TTL = 5.0


class Budgets:
    """Tokens and money of the day. `clock` is Unix seconds."""

    def __init__(self, store: AccessStore, hotstore: HotStore, ring: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._hotstore = hotstore
        self._alone = MemoryHotStore()
        self._ring = ring
        self._clock = clock
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ended(self, tenant: str, usage: Usage) -> None:
        """Counts what a turn has cost. Never raises: what is not counted now is found in the database."""
        if not (usage.llm_calls and _has_budget(self._ring.limits_of(tenant))):
            return
        day, tokens = _day(self._clock()), usage.input_tokens + usage.output_tokens
        for hotstore in (self._hotstore, self._alone):
            try:
                await asyncio.gather(*(hotstore.add(key, n) for key, n in zip(_keys(tenant, day), (tokens, usage.cost_usd), strict=True)))
                return
            except HotStoreUnavailable:
                continue

    async def check(self, tenant: str, limits: Limits) -> None:
        """Raises BudgetExceeded where the tenant has spent what it may today, DependencyUnavailable when that cannot be known."""
        if not _has_budget(limits):
            return
        spent = await self.spent(tenant)
        most, money = limits.tokens_per_day, limits.cost_usd_per_day
        if most is not None and spent.tokens >= most:
            raise self._spent_up("tokens_per_day", most, spent.tokens, f"this tenant may use {most} tokens a day (UTC)")
        if money is not None and spent.cost_usd >= money:
            used = round(spent.cost_usd, 6)
            raise self._spent_up("cost_usd_per_day", money, used, f"this tenant may spend {money:g} US dollars a day (UTC)")

    async def spent(self, tenant: str) -> Spent:
        """What the tenant has spent today. Raises DependencyUnavailable when neither hot store nor database can tell."""
        try:
            return await self._read(self._hotstore, tenant, keys.USE_TTL)
        except HotStoreUnavailable:
            return await self._read(self._alone, tenant, ALONE_TTL)

    async def _read(self, hotstore: HotStore, tenant: str, ttl: float) -> Spent:
        now = self._clock()
        names = _keys(tenant, _day(now))
        if (known := await _counted(hotstore, names)) is not None:
            return known
        async with self._asking.setdefault(tenant, asyncio.Lock()):  # one question to the database for all who wait for its answer
            if (known := await _counted(hotstore, names)) is not None:
                return known
            sums = (await self._store.spent([tenant], since=now - now % DAY))[tenant]
            tokens, cost = await asyncio.gather(
                *(hotstore.seed(n, x, ttl) for n, x in zip(names, (sums.tokens, sums.cost_usd), strict=True))
            )
            return Spent(int(tokens), cost)

    def _spent_up(self, limit: str, value: float, used: float, detail: str) -> BudgetExceeded:
        now = self._clock()
        return BudgetExceeded(**beyond(limit, value, used, detail, DAY - now % DAY))


def _has_budget(limits: Limits) -> bool:
    return limits.tokens_per_day is not None or limits.cost_usd_per_day is not None


async def _counted(hotstore: HotStore, names: tuple[str, str]) -> Spent | None:
    tokens, cost = await asyncio.gather(*(hotstore.add(name, 0) for name in names))
    return None if tokens is None or cost is None else Spent(int(tokens), cost)


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def _keys(tenant: str, day: str) -> tuple[str, str]:
    return keys.use(tenant, day, "tokens"), keys.use(tenant, day, "cost")
