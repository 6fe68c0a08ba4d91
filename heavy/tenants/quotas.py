"""What a tenant may have at once and in a day, asked before a turn is accepted or a stream begins. Refusals tell the limit and when to
come back.

Rules cost nothing and never come here. A tenant without limits is asked nothing: no store is touched for its turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from common.contracts.access import Limits
from common.errors import BudgetExceeded, LoadsplitError, RateLimited
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.auth import Caller, KeyRing
from common.web.rate import RequestRate, beyond
from heavy.tenants.budgets import check
from heavy.tenants.fairness import may_enter, share_of
from heavy.tenants.spending import Spending
from heavy.tenants.stores import AccessStore
from heavy.tenants.streams import Headers, OpenStream, OpenStreams

# Whether a message will cost anything; asked only when its tenant has spent its budget.
Costs = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of this process: how many turns it takes at most, how many more it takes now, and how many each tenant has here."""

    most: Callable[[], int]
    room: Callable[[], int]
    held: Mapping[str, int]


class Quotas:
    """The one door."""

    def __init__(self, ring: KeyRing, store: AccessStore, hotstore: HotStore, node: Node, metrics: Metrics, spending: Spending) -> None:
        self._ring = ring
        self._store = store
        self._node = node
        self._requests = RequestRate(hotstore, metrics)
        self._streams = OpenStreams(hotstore, ring, metrics)
        self._spending = spending
        self.keep = self._streams.keep  # runs until cancelled
        self._refused = metrics.quota_refusals_total
        self._entering: Counter[str] = Counter()
        self._doors: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def request(self, caller: Caller) -> None:
        """Counts a request that came with an API key. Raises RateLimited."""
        await self._requests.count(caller.tenant, caller.limits)

    def stream(self, tenant: str, headers: Headers | None = None) -> AbstractAsyncContextManager[OpenStream]:
        """While inside, the tenant has one more open stream; it ends with the key in `headers`. Raises RateLimited."""
        return self._streams.one(tenant, headers)

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, costs: Costs, place: AbstractAsyncContextManager[None] | None = None) -> AsyncIterator[None]:
        """A turn is accepted inside. `place` is its place in the node, which may have to be waited for: it is entered when all is well with
        the tenant, and before what its turns do one after the other. Raises RateLimited or BudgetExceeded before anything is stored,
        DependencyUnavailable where a limit cannot be checked."""
        limits = self._ring.limits_of(tenant)
        self._share(tenant)
        self._entering[tenant] += 1
        try:
            await self._pay(tenant, limits, costs)
            async with place or contextlib.nullcontext():
                if limits.concurrent_turns is None:
                    yield
                    return
                # One after the other: the next one is counted when this one is stored. Another replica may let one in at the same moment.
                async with self._doors.setdefault(tenant, asyncio.Lock()):
                    await self._count(tenant, limits.concurrent_turns)
                    yield
        finally:
            self._entering[tenant] -= 1
            if not self._entering[tenant]:
                del self._entering[tenant]

    async def _pay(self, tenant: str, limits: Limits, costs: Costs) -> None:
        try:
            await check(self._spending, tenant, limits)
        except BudgetExceeded as e:
            if await costs():
                self._refused.labels(e.extra["limit"]).inc()
                raise

    async def _count(self, tenant: str, most: int) -> None:
        active = await self._store.active_turns(tenant)
        if active >= most:
            raise self._beyond("concurrent_turns", most, active, f"this tenant may have {most} turns at once")

    def _share(self, tenant: str) -> None:
        node = self._node
        tenants = len(node.held.keys() | self._entering.keys() | {tenant})
        held = node.held.get(tenant, 0) + self._entering[tenant]
        most = node.most()
        if not may_enter(room=node.room(), max_inflight=most, held=held, tenants=tenants):
            share = share_of(most, tenants)
            raise self._beyond("fair_share", share, held, f"this node is filling up, and {share} of its turns are this tenant's share")

    def _beyond(self, limit: str, value: int, used: int, detail: str) -> LoadsplitError:
        self._refused.labels(limit).inc()
        return RateLimited(**beyond(limit, value, used, detail, 1))
