"""How late the event loop is: what a process feels first when its core is full, whatever keeps it busy."""

from __future__ import annotations

import asyncio
import time

from common.telemetry.metrics import Metrics

EVERY_SECONDS = 0.25


class LoopLag:
    """Looks four times a second how much later than asked it is woken."""

    def __init__(self, metrics: Metrics, tier: str) -> None:
        self._seconds = metrics.event_loop_lag_seconds.labels(tier)

    async def watch(self) -> None:
        """Runs until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(EVERY_SECONDS)
            self._seconds.observe(max(0.0, time.monotonic() - began - EVERY_SECONDS))
