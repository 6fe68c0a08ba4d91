"""How many calls a target has at once in this process: slots, and a queue before them in which the first comes first."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """Places for at most `limit` calls; None is no limit. A place that gets free goes to whoever has waited longest."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes a place if there is one and nobody waits for it."""
        if self.limit is not None and (self.used >= self.limit or self._queue):
            return False
        self.used += 1
        return True

    def expected(self, seconds: float) -> float:
        """How long a new caller would wait, in seconds, where a call takes so many."""
        if self.limit is None or (self.used < self.limit and not self._queue):
            return 0.0
        return (len(self._queue) + 1) * seconds / self.limit

    async def wait(self, patience: float) -> bool:
        """Waits at most `patience` seconds for a place. Whether there is one now; then it is taken."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(patience):
                await place
            return True
        except TimeoutError:
            return self._gone(place)
        except asyncio.CancelledError:  # whoever leaves gives back what he was just given
            if self._gone(place):
                self.free()
            raise

    def free(self) -> None:
        """Gives a place back."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)  # the place changes hands: `used` stays
                return
        self.used -= 1

    def _gone(self, place: asyncio.Future[None]) -> bool:
        """Takes a caller out of the queue. True when a place was his already."""
        if place in self._queue:
            self._queue.remove(place)
        return place.done() and not place.cancelled()
