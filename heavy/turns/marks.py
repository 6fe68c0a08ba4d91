"""Tells the rule tier which requests with an Idempotency-Key heavy has had, so that none of them is answered there as if it were new.

A mark that could not be written is owed: as long as Redis is away all such requests come here, and when it is back they must still do.
"""

from __future__ import annotations

import asyncio
import contextlib

from common.contracts.idempotency import HANDED, KEPT_SECONDS, Keyed, write_mark
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable

PAY_SECONDS = 0.2
MOST_OWED = 100_000


class Marks:
    """The marks that this process owes and has written."""

    def __init__(self, hotstore: HotStore) -> None:
        self._hotstore = hotstore
        self._owed: dict[str, bytes] = {}

    async def show(self, tenant: str, keyed: Keyed) -> None:
        """Marks a request, now or as soon as the hot store is back. Never raises."""
        key, mark = keys.idempotency(tenant, keyed.digest), write_mark(HANDED, keyed.fingerprint, keyed.ids[0])
        try:
            await self._hotstore.set(key, mark, KEPT_SECONDS)
        except HotStoreUnavailable:
            self._owed[key] = mark
            while len(self._owed) > MOST_OWED:
                del self._owed[next(iter(self._owed))]

    async def pay(self) -> None:
        """Writes what is owed whenever the hot store answers. Runs until cancelled."""
        while True:
            await asyncio.sleep(PAY_SECONDS)
            with contextlib.suppress(HotStoreUnavailable):  # still away: what is owed stays owed
                for key, mark in list(self._owed.items()):
                    await self._hotstore.set(key, mark, KEPT_SECONDS)
                    self._owed.pop(key, None)
