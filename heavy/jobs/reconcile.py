"""Takes over turns whose owner has died: every few seconds, the active turns whose lease has run out are claimed and run here."""

from __future__ import annotations

import asyncio
import logging

from heavy.turns.life import Turns
from heavy.turns.owner import LEASE_SECONDS, TurnOwner
from heavy.turns.stores import DatabaseUnavailable, TurnStore

EVERY_SECONDS = 2.0
AT_ONCE = 16
log = logging.getLogger(__name__)


async def reconcile(turns: TurnStore, owner: TurnOwner, life: Turns) -> None:
    """Runs until cancelled."""
    while True:
        try:
            room = min(AT_ONCE, life.room)
            for row in await turns.take_over(owner=owner.name, lease_seconds=LEASE_SECONDS, limit=room) if room > 0 else ():
                log.info("turn %s taken over, attempt %d", row.turn_id, row.attempt)
                life.resume(row)
        except DatabaseUnavailable as e:
            log.warning("no turns taken over: %s", e.detail)
        await asyncio.sleep(EVERY_SECONDS)
