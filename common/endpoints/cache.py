"""A bounded cache with a time to live and single flight: of many callers who miss the same key one asks, and all get its answer.

It is a cache in process. It knows nothing of HTTP; results are shared, so callers must not change them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

Clock = Callable[[], float]


class FlightCache:
    """At most `max_entries` results and `max_bytes` of them (as their makers weigh them); the oldest go first."""

    def __init__(self, max_entries: int = 2000, max_bytes: int = 32_000_000, clock: Clock = time.monotonic) -> None:
        self._kept: dict[str, tuple[float, int, Any]] = {}
        self._flights: dict[str, asyncio.Task[tuple[int, Any]]] = {}
        self._max_entries, self._max_bytes, self._clock = max_entries, max_bytes, clock
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str, ttl: float, make: Callable[[], Awaitable[tuple[int, Any]]]) -> Any:
        """The kept result, or that of `make` (its weight in bytes, the result). Errors reach all who wait and are not kept.

        A caller that is cancelled does not stop the flight: others may wait for it.
        """
        if kept := self._kept.get(key):
            if kept[0] > self._clock():
                return kept[2]
            self._drop(key)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(make())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, ttl, done))
        return (await asyncio.shield(flight))[1]

    async def aclose(self) -> None:
        """Ends flights under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _landed(self, key: str, ttl: float, flight: asyncio.Task[tuple[int, Any]]) -> None:
        self._flights.pop(key, None)
        if flight.cancelled() or flight.exception() is not None:
            return
        weight, result = flight.result()
        if weight > self._max_bytes:
            return
        self._kept[key] = (self._clock() + ttl, weight, result)
        self._bytes += weight
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        self._bytes -= self._kept.pop(key)[1]
