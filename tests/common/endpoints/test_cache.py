"""The cache: one flight for all who miss, bounds, and callers that leave."""

from __future__ import annotations

import asyncio

import pytest

from common.endpoints.cache import FlightCache
from tests.support.waiting import wait_until


class Source:
    """Counts how often it is asked; answers when `go` is set."""

    def __init__(self, weight: int = 1) -> None:
        self.asked, self.weight, self.go, self.error = 0, weight, asyncio.Event(), None

    async def __call__(self) -> tuple[int, str]:
        self.asked += 1
        await self.go.wait()
        if self.error:
            raise self.error
        return self.weight, f"answer {self.asked}"


async def test_one_flight_for_all_and_then_the_kept_result() -> None:
    cache, source = FlightCache(), Source()
    waiting = [asyncio.ensure_future(cache.get("k", 60, source)) for _ in range(50)]
    await wait_until(lambda: source.asked, "asked")
    source.go.set()
    assert set(await asyncio.gather(*waiting)) == {"answer 1"}
    assert await cache.get("k", 60, source) == "answer 1"
    assert await cache.get("other", 60, source) == "answer 2"


async def test_it_expires() -> None:
    now = [0.0]
    cache, source = FlightCache(clock=lambda: now[0]), Source()
    source.go.set()
    assert await cache.get("k", 5, source) == "answer 1"
    now[0] = 4.9
    assert await cache.get("k", 5, source) == "answer 1"
    now[0] = 5.1
    assert await cache.get("k", 5, source) == "answer 2"


async def test_errors_reach_all_and_are_not_kept() -> None:
    cache, source = FlightCache(), Source()
    source.error = ValueError("no")
    source.go.set()
    results = await asyncio.gather(*(cache.get("k", 60, source) for _ in range(3)), return_exceptions=True)
    assert [type(r) for r in results] == [ValueError] * 3
    source.error = None
    assert await cache.get("k", 60, source) == "answer 2"


async def test_a_caller_that_leaves_does_not_stop_the_flight() -> None:
    cache, source = FlightCache(), Source()
    first = asyncio.ensure_future(cache.get("k", 60, source))
    second = asyncio.ensure_future(cache.get("k", 60, source))
    await wait_until(lambda: source.asked, "asked")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.go.set()
    assert await second == "answer 1"


async def test_it_is_bounded() -> None:
    cache, source = FlightCache(max_entries=3, max_bytes=10), Source(weight=4)
    source.go.set()
    for n in range(5):
        await cache.get(str(n), 60, source)
    assert len(cache) == 2
    source.weight = 11
    await cache.get("big", 60, source)
    assert len(cache) == 2


async def test_closing_ends_flights() -> None:
    cache, source = FlightCache(), Source()
    waiting = asyncio.ensure_future(cache.get("k", 60, source))
    await wait_until(lambda: source.asked, "asked")
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
