"""The level of the log, changed while the processes run: for a time, on all replicas of both tiers, through the hot store.

The key's own end is the end of the change, so nobody has to remember to set it back, and a replica that starts meanwhile has it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.logs import set_level

LEVELS = ("debug", "info", "warning", "error")
LOOK_SECONDS = 2.0
log = logging.getLogger(__name__)


class LogLevel:
    """Follows the level that is asked for; `configured` holds while there is none."""

    def __init__(self, hotstore: HotStore, configured: str) -> None:
        self._hotstore = hotstore
        self.configured = self.now = configured

    async def change(self, level: str, seconds: int) -> None:
        """Asks every process for a level for so long; here it holds at once. Raises HotStoreUnavailable."""
        await self._hotstore.set(keys.LOG_LEVEL, level.encode(), seconds)
        await self._hotstore.publish(keys.LOG_LEVEL_NEWS, level.encode())
        self._use(level)

    async def end(self) -> None:
        """Every process goes back to the level that it was started with. Raises HotStoreUnavailable."""
        await self._hotstore.delete(keys.LOG_LEVEL)
        await self._hotstore.publish(keys.LOG_LEVEL_NEWS, b"")
        self._use(self.configured)

    async def follow(self) -> None:
        """Keeps this process's level as it is asked for. Runs until cancelled."""
        while True:
            with contextlib.suppress(HotStoreUnavailable):
                async with self._hotstore.subscribe(keys.LOG_LEVEL_NEWS) as news:
                    while True:
                        await self._look()
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_SECONDS):
                                await anext(news)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        asked = (await self._hotstore.get(keys.LOG_LEVEL) or b"").decode()
        self._use(asked if asked in LEVELS else self.configured)

    def _use(self, level: str) -> None:
        if level != self.now:
            self.now = level
            set_level(level)
            log.warning("the log's level is now %s", level)
