"""Work that goes on beside the requests as long as a process lives. What it does is not known here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)


async def keep(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Background work must not die silently: what it did not foresee is logged, and it begins again. Runs until cancelled."""
    while True:
        try:
            await work()
        except Exception:  # whatever broke: leases must still be renewed, keys still be revoked
            log.exception("background work broke off and begins again")
        await asyncio.sleep(AGAIN_SECONDS)


async def stop(task: asyncio.Task[None]) -> None:
    """Ends it."""
    task.cancel()
    await asyncio.wait([task])
