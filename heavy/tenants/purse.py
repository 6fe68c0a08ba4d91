"""Budgets of tenants and keys that hold though many calls run at once: what a call may cost at most is set aside before it is made, and
what it has cost takes that place at its end.

A call is refused when what was spent and what is set aside have reached a limit; so a limit is passed by the last call that was let in, and
no other. What a killed process has set aside is free again after half a minute.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from common.contracts.query import Usage
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from heavy.llm.prices import nano_dollars
from heavy.llm.types import Spender
from heavy.tenants.budgets import Budget
from heavy.tenants.spending import SetAside, Spending

KEEP_SECONDS = 10.0
WRITTEN_SECONDS = 20.0  # less than what is settled is kept for
CLOSE_SECONDS = 2.0

Settle = Callable[[Usage | None], None]


class Purse:
    """Implements heavy.llm.legs.Purse. `written` returns when the lines that the ledger has are in the database."""

    def __init__(self, spending: Spending, ring: KeyRing, written: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
        self._spending = spending
        self._ring = ring
        self._written = written
        self._refused = metrics.quota_refusals_total
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._held: dict[str, Sequence[SetAside]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._uncounted: dict[str, set[asyncio.Event]] = {}

    async def reserve(self, spender: Spender, tokens: int, cost_usd: float) -> Settle:
        """Sets so much aside; the result is called once with what was used (None: nothing). Raises BudgetExceeded naming the limit,
        DependencyUnavailable where it cannot be known what was spent. Without a limit nothing is asked."""
        budgets = self._budgets(spender)
        if not budgets:
            return _nothing
        for counted in tuple(self._uncounted.get(spender.tenant, ())):
            await counted.wait()  # what the caller has just spent stands before what it asks for
        holder, amounts, held = f"{self._process}.{next(self._numbers):x}", (tokens, nano_dollars(cost_usd)), list[SetAside]()
        try:
            for budget in budgets:
                one, account = await self._spending.set_aside(budget.place, holder, amounts, budget.limits)
                if one is None:
                    refusal = budget.refusal(account, self._spending.until_midnight, with_reserved=True)
                    if refusal is not None:
                        self._refused.labels(refusal.extra["limit"]).inc()
                        raise refusal
                else:
                    held.append(one)
            self._held[holder] = held
        finally:
            if held and holder not in self._held:
                self._start(spender.tenant, held, None)
        return partial(self._settle, spender.tenant, holder)

    async def keep(self) -> None:
        """Keeps what is set aside for calls that run. Runs until cancelled."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            await self._spending.keep([one for held in self._held.values() for one in held])

    async def aclose(self) -> None:
        """Waits a moment until what was spent is counted."""
        if self._settling:
            _, late = await asyncio.wait(self._settling, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _budgets(self, spender: Spender) -> list[Budget]:
        found = [Budget.of((spender.tenant, None), self._ring.limits_of(spender.tenant))]
        if spender.key_id is not None:
            key = (spender.tenant, spender.key_id)
            found.append(Budget.of(key, self._ring.limits_of_key(*key)))
        return [budget for budget in found if budget is not None]

    def _settle(self, tenant: str, holder: str, usage: Usage | None) -> None:
        held = self._held.pop(holder, None)
        if held is not None:
            self._start(tenant, held, usage)

    def _start(self, tenant: str, held: Sequence[SetAside], usage: Usage | None) -> None:
        counted = asyncio.Event()
        self._uncounted.setdefault(tenant, set()).add(counted)
        task = asyncio.create_task(self._end(tenant, held, usage, counted))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _end(self, tenant: str, held: Sequence[SetAside], usage: Usage | None, counted: asyncio.Event) -> None:
        try:
            await self._count(held, usage)
        finally:
            counted.set()
            waited = self._uncounted[tenant]
            waited.discard(counted)
            if not waited:
                del self._uncounted[tenant]
        if usage is None:
            return
        try:
            async with asyncio.timeout(WRITTEN_SECONDS):
                await self._written()
        except TimeoutError:
            return  # until the ledger can write, this is kept in mind as long as it may be
        for one in held:
            await self._spending.release(one)

    async def _count(self, held: Sequence[SetAside], usage: Usage | None) -> None:
        for one in held:
            if usage is None:
                await self._spending.release(one)
            else:
                await self._spending.settle(one, (usage.input_tokens + usage.output_tokens, nano_dollars(usage.cost_usd)))


def _nothing(usage: Usage | None) -> None:
    """Where there is no limit nothing is counted."""
