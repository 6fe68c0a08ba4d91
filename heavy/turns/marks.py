"""Tells the rule tier which requests with an Idempotency-Key heavy has had, so that none of them is answered there as if it were new.

A mark that could not be written is owed: as long as the hot store is away all such requests come here, and when it is back they must still
do. Whoever owes may die meanwhile, and the hot store may come back with nothing in it. So each process asks the database behind every
absence of the hot store, and at its own start, what came with a key.
"""

from __future__ import annotations

import asyncio
import time

from common.contracts.idempotency import HANDED, KEPT_SECONDS, Keyed, digest_in, write_mark
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.stores import TurnStore

PAY_SECONDS = 0.2
BEFORE_SECONDS = 10.0  # an absence may have begun before it was seen, and turns are stored behind their beginning
NOBODYS = keys.idempotency("", "")
MOST_OWED, MOST_ASKED, AT_ONCE = 100_000, 10_000, 100


class Marks:
    """The marks that this process owes and has written."""

    def __init__(self, hotstore: HotStore, turns: TurnStore) -> None:
        self._hotstore = hotstore
        self._turns = turns
        self._owed: dict[str, bytes] = {}
        self._away_since: float | None = time.monotonic() - KEPT_SECONDS

    async def show(self, tenant: str, keyed: Keyed) -> None:
        """Marks a request, now or as soon as the hot store is back. Never raises."""
        key, mark = keys.idempotency(tenant, keyed.digest), write_mark(HANDED, keyed.fingerprint, keyed.ids[0])
        try:
            await self._hotstore.set(key, mark, KEPT_SECONDS)
        except HotStoreUnavailable:
            self._is_away()
            self._owed[key] = mark
            while len(self._owed) > MOST_OWED:
                del self._owed[next(iter(self._owed))]

    async def pay(self) -> None:
        """Writes what is owed whenever the hot store answers, by this process and by those that have died. Runs until cancelled."""
        while True:
            try:
                await self._hotstore.get(NOBODYS)  # whether it answers is all that matters
                await self._pay_own()
                await self._pay_for_all()
            except HotStoreUnavailable:
                self._is_away()
            except DependencyUnavailable:  # the database: what is owed stays owed
                pass
            await asyncio.sleep(PAY_SECONDS)

    def _is_away(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()

    async def _pay_own(self) -> None:
        for key, mark in list(self._owed.items()):
            await self._hotstore.set(key, mark, KEPT_SECONDS)
            self._owed.pop(key, None)

    async def _pay_for_all(self) -> None:
        if self._away_since is None:
            return
        since = self._away_since
        rows = await self._turns.keyed(min(time.monotonic() - since + BEFORE_SECONDS, KEPT_SECONDS), MOST_ASKED)
        for n in range(0, len(rows), AT_ONCE):
            await asyncio.gather(*(self._mark(*row) for row in rows[n : n + AT_ONCE]))
        if self._away_since == since:
            self._away_since = None

    async def _mark(self, tenant: str, turn_id: str, fingerprint: str) -> None:
        """Leaves alone what is there: a reply, or a claim of who answers just now."""
        key = keys.idempotency(tenant, digest_in(turn_id))
        await self._hotstore.claim(key, write_mark(HANDED, fingerprint, turn_id), KEPT_SECONDS)
