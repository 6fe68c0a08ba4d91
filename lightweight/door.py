"""How many requests this tier answers at once. Whoever comes to a full door is refused before his key or his message is looked at.

What heavy is doing for a client does not count, so rules are answered whatever heavy does. There is no queue of its own: what has been read
waits in the event loop, and when that is late, fewer are let in.
"""

from __future__ import annotations

import asyncio

from common.errors import Overloaded
from common.telemetry.metrics import Metrics
from common.web.adaptive import AdaptiveLimit

TICK_SECONDS = 0.25
LATE_SECONDS = 0.25  # a loop that is so late answers nobody quicker
LATE_TICKS = 2  # once is a frozen process, or a garbage collection


class Door:
    """At most `most` requests; when the loop is late fewer, down to `least`."""

    __slots__ = ("_late", "_refused", "count", "limit")

    def __init__(self, most: int, least: int | None = None, metrics: Metrics | None = None) -> None:
        metrics = metrics or Metrics()
        self.limit = AdaptiveLimit(most, least, metrics.admission_limit.labels("lightweight").set)
        self.count = 0
        self._refused = metrics.admission_refusals_total.labels("lightweight", "full")
        self._late = 0

    def refusal(self, busy_message: str | None) -> Overloaded:
        """What is told at a full door."""
        self._refused.inc()
        told = {"message": busy_message} if busy_message else {}
        return Overloaded("this process answers as many requests as it can", retry_after=1.0, **told)

    async def watch(self) -> None:
        """Keeps the limit until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.seen(loop.time() - due)

    def seen(self, late: float) -> None:
        """The event loop was so many seconds late."""
        self._late = self._late + 1 if late > LATE_SECONDS else 0
        if self._late >= LATE_TICKS:
            self.limit.fall(self.count)
        elif not self._late:
            self.limit.rise()
