"""What tenants and their keys have spent today, and what is set aside for calls that run, over all replicas. Days are those of UTC.

The figures stand in accounts of the hot store, which begin with the sums of the ledger and to which each call adds at its end. They are
forgotten after ten minutes and taken from the ledger anew, so that what was counted twice, or not at all, because a process died or a store
was away is right again by then. Without the hot store this process keeps accounts of its own, for a few seconds each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.accounts import Account, Amounts
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.llm.stores import LedgerStore

DAY = 86400.0
ALONE_TTL = 5.0
TRIES = 3  # an account may be forgotten between its beginning and its use
Place = tuple[str, str | None]
"""A tenant, or one of its keys."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Amounts that are set aside in an account."""

    hotstore: HotStore
    key: str
    holder: str


class Spending:
    """The accounts. Amounts are tokens and billionths of a US dollar; `clock` is Unix seconds."""

    def __init__(self, ledger: LedgerStore, hotstore: HotStore, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._hotstore = hotstore
        self._alone = MemoryHotStore()
        self._clock = clock
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def until_midnight(self) -> float:
        """Seconds that are left of the day."""
        return DAY - self._clock() % DAY

    async def account(self, place: Place) -> Account:
        """What was spent today and is set aside. Raises DependencyUnavailable when neither hot store nor database can tell."""
        try:
            return await self._open(self._hotstore, place, keys.SPENT_TTL)
        except HotStoreUnavailable:
            return await self._open(self._alone, place, ALONE_TTL)

    async def set_aside(
        self, place: Place, holder: str, amounts: Amounts, limits: tuple[int | None, int | None]
    ) -> tuple[SetAside | None, Account]:
        """Sets amounts aside, if something is left of each limit; None if not. And what the account said before. Raises as `account`."""
        try:
            return await self._reserve(self._hotstore, keys.SPENT_TTL, place, holder, amounts, limits)
        except HotStoreUnavailable:
            return await self._reserve(self._alone, ALONE_TTL, place, holder, amounts, limits)

    async def settle(self, one: SetAside, amounts: Amounts) -> None:
        """Counts what was spent in the place of what was set aside. Never raises: what is not counted now is found in the ledger."""
        try:
            await one.hotstore.settle(one.key, one.holder, amounts, keys.HELD_TTL)
        except HotStoreUnavailable:
            await self._alone.settle(one.key, one.holder, amounts, keys.HELD_TTL)

    async def keep(self, held: Sequence[SetAside]) -> None:
        """Says that the holders live. Never raises."""
        by_account: dict[tuple[int, str], list[SetAside]] = {}
        for one in held:
            by_account.setdefault((id(one.hotstore), one.key), []).append(one)
        for ones in by_account.values():
            try:
                await ones[0].hotstore.renew(ones[0].key, [one.holder for one in ones], keys.HELD_TTL)
            except HotStoreUnavailable:
                return  # it forgets them, or is wiped: nothing that we could do

    async def release(self, one: SetAside) -> None:
        """What was settled is in the ledger, or nothing was spent of what was set aside. Never raises."""
        try:
            await one.hotstore.release(one.key, [one.holder])
        except HotStoreUnavailable:
            return  # it is forgotten after a while

    async def _reserve(
        self, hotstore: HotStore, ttl: float, place: Place, holder: str, amounts: Amounts, limits: tuple[int | None, int | None]
    ) -> tuple[SetAside | None, Account]:
        key = self._key(place)
        for _ in range(TRIES):
            found = await hotstore.reserve(key, holder, amounts, limits, keys.HELD_TTL)
            if found is not None:
                done, account = found
                return SetAside(hotstore, key, holder) if done else None, account
            await self._open(hotstore, place, ttl)
        raise DependencyUnavailable("what was spent today is not known", retry_after=1)

    async def _open(self, hotstore: HotStore, place: Place, ttl: float) -> Account:
        key = self._key(place)
        if (known := await hotstore.account(key)) is not None:
            return known
        async with self._asking.setdefault(key, asyncio.Lock()):  # one question to the database for all who wait for its answer
            if (known := await hotstore.account(key)) is not None:
                return known
            spent = await self._ledger.spent(*place, day=self._day())
            return await hotstore.open_account(key, (spent.tokens, spent.cost_nano), ttl)

    def _key(self, place: Place) -> str:
        return keys.spent(self._day(), *place)

    def _day(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%d")
