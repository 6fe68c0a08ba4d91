"""Takes over turns whose owner has died, or has given them up: the active turns whose lease has run out are claimed and run here."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.life import Turns
from heavy.turns.owner import TurnOwner
from heavy.turns.stores import DatabaseUnavailable, TurnStore

EVERY_SECONDS = 1.0
AT_ONCE = 16
log = logging.getLogger(__name__)


class TakeOver:
    """The look-out of one process: every second, and when another process says that it has left turns."""

    def __init__(self, turns: TurnStore, hotstore: HotStore, owner: TurnOwner, life: Turns) -> None:
        self._turns = turns
        self._hotstore = hotstore
        self._owner = owner
        self._life = life
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                while await self.once() == AT_ONCE:
                    pass
            except DatabaseUnavailable as e:
                log.warning("no turns taken over: %s", e.detail)
                await self._until_all_have_renewed()
            self._told.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._told.wait()

    async def once(self) -> int:
        """Takes over what is left, as much as this node has room for; how many turns that were."""
        room = min(AT_ONCE, self._life.room)
        rows = await self._turns.take_over(owner=self._owner.name, lease_seconds=self._owner.lease_seconds, limit=room) if room > 0 else ()
        for row in rows:
            log.info("turn %s taken over, attempt %d", row.turn_id, row.attempt)
            self._life.resume(row)
        return len(rows)

    async def listen(self) -> None:
        """Hears of turns that were left until cancelled."""
        while True:
            with contextlib.suppress(HotStoreUnavailable):
                async with self._hotstore.subscribe(keys.LEFT) as messages:
                    async for _ in messages:
                        self._told.set()
            await asyncio.sleep(EVERY_SECONDS)

    async def _until_all_have_renewed(self) -> None:
        """An outage of the database lets leases run out whose owners live: they get the time to renew them first."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            with contextlib.suppress(DatabaseUnavailable):
                await self._turns.cancel_requests(self._owner.name)
                await asyncio.sleep(self._owner.lease_seconds / 2)
                return
