"""Open load: messages that come at their times whether the earlier ones have been answered or not, and closed load beside it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Outcome:
    """What one message came to. `at` is when it was sent, in seconds from the beginning, `seconds` how long the client waited."""

    at: float
    seconds: float
    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def own_seconds(self) -> float:
        """What the server says that it took."""
        return float(self.headers["server-timing"].rpartition("total;dur=")[2].partition(",")[0]) / 1000


class Load:
    """Sends messages to one server; `message` is what the n-th one says, each in a session of its own."""

    def __init__(self, url: str, message: str, name: str, headers: Mapping[str, str] | None = None) -> None:
        self._url, self._message, self._name = f"{url}/api/v1/query", message, name
        self._headers = dict(headers or {})
        self._sent = 0
        self.outcomes: list[Outcome] = []

    def open(self, rate: float, seconds: float) -> list[Outcome]:
        """So many a second, whatever comes back."""
        return asyncio.run(self.arrive(rate, seconds))

    def closed(self, clients: int, seconds: float) -> list[Outcome]:
        """So many clients, each of which asks again when it has its answer."""
        return asyncio.run(self.talk(clients, seconds))

    async def arrive(self, rate: float, seconds: float) -> list[Outcome]:
        """`open` inside an event loop."""
        loop, asked = asyncio.get_running_loop(), []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            began = loop.time()
            all_sent = asyncio.Event()
            for n in range(round(rate * seconds)):
                loop.call_at(began + n / rate, lambda: asked.append(asyncio.create_task(self._ask(http, began))))
            loop.call_at(began + seconds, all_sent.set)
            await all_sent.wait()
            return list(await asyncio.gather(*asked))

    async def talk(self, clients: int, seconds: float, until: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """`closed` inside an event loop; ends early when `until` says so."""
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            began = loop.time()

            async def one() -> list[Outcome]:
                mine = []
                while loop.time() < began + seconds and not until():
                    mine.append(await self._ask(http, began))
                return mine

            return [o for mine in await asyncio.gather(*(one() for _ in range(clients))) for o in mine]

    async def _ask(self, http: aiohttp.ClientSession, began: float) -> Outcome:
        self._sent += 1
        body = {"message": self._message, "session_id": f"{self._name}-{self._sent}"}
        sent = time.monotonic()
        async with http.post(self._url, json=body, headers=self._headers) as reply:
            document = await reply.json(content_type=None)
        headers = {k.lower(): v for k, v in reply.headers.items()}
        outcome = Outcome(sent - began, time.monotonic() - sent, reply.status, headers, document)
        self.outcomes.append(outcome)
        return outcome


def good(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that were answered."""
    return [o for o in outcomes if o.status == 200]


def rate_of(outcomes: Sequence[Outcome], slots: int) -> float:
    """Answers a second of a server that gives so many at a time; the last of them are left out, since it was not full any more then."""
    ends = sorted(o.at + o.seconds for o in good(outcomes))[:-slots]
    return len(ends) / ends[-1]


def median_seconds(outcomes: Sequence[Outcome]) -> float:
    """What half of the clients waited at most."""
    return statistics.median(o.seconds for o in outcomes)
