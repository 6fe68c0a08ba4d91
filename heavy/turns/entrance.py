"""The entrance of a node: how many turns it takes, and the short queue of messages before it when it is full.

Nobody waits who would wait too long: he is refused at once, with the time to come back. Tasks and timers have no place in the queue, they
wait in the database; a place that gets free goes to a message first.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from common.errors import DeadlineExceeded, Overloaded
from common.telemetry.metrics import Metrics
from common.web.adaptive import AdaptiveLimit
from heavy.turns.pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from heavy.turns.owner import TurnOwner

FULL = "this node takes no further turn now"
NO_TIME = "the time for this request is over"
NEWS = 0.2  # how much one more gap between two places counts
UNKNOWN_SECONDS = 1.0  # how long a turn takes where none has ended yet
PATIENT = 2.0  # who was let into the queue waits at most so many times longer than he was told


class Entrance:
    """The room of one node. `most` turns at once; when first words become slow fewer, down to `least`. `patience` is how many seconds a
    message may wait for its place, 0 for not at all."""

    def __init__(
        self, owner: TurnOwner, most: int, *, least: int | None = None, patience: float = 0.0, metrics: Metrics | None = None
    ) -> None:
        metrics = metrics or Metrics()
        self.limit = AdaptiveLimit(most, least, metrics.admission_limit.labels("heavy").set)
        self.pace = Pace(self.limit, lambda: self.under_way)
        self.closed = False
        self._owner = owner
        self._patience = patience
        self._held = 0
        # By tenant; the first one's turn is next. A future's result says whether a place was given.
        self._lines: dict[str, deque[asyncio.Future[bool]]] = {}
        self._gap: float | None = None  # between two places that get free in a full node, in seconds
        self._full_since: float | None = None  # or since when the last place got free, while it is full
        self._waiting = metrics.admission_waiting
        self._refused = metrics.admission_refusals_total
        owner.on_room, owner.pace = self._freed, self.pace

    @property
    def under_way(self) -> int:
        """How many places are taken."""
        return self._owner.busy + self._held

    @property
    def room(self) -> int:
        """How many more turns this node takes now. While a message waits it is 0."""
        return 0 if self.closed else self.limit.now - self.under_way

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """A place is taken inside: by a turn that is being accepted, which then has one itself, or by what lasts as long as this."""
        self._held += 1
        try:
            yield
        finally:
            self._leave()

    def place(self, tenant: str, deadline: float | None, told: Mapping[str, Any]) -> AbstractAsyncContextManager[None]:
        """A place, at once or after a short wait. Raises Overloaded with `told` and the time to come back, or DeadlineExceeded where the
        caller's time (`deadline`, Unix seconds) is over."""
        return self._place(tenant, deadline, told)

    def close(self) -> None:
        """Takes nothing more; whoever waits is refused."""
        self.closed = True
        for line in self._lines.values():
            for place in line:
                if not place.done():
                    place.set_result(False)

    @asynccontextmanager
    async def _place(self, tenant: str, deadline: float | None, told: Mapping[str, Any]) -> AsyncIterator[None]:
        left = math.inf if deadline is None else deadline - time.time()
        if left <= 0:
            self._refused.labels("heavy", "deadline").inc()
            raise DeadlineExceeded(NO_TIME)
        if self.room > 0:
            with self.taken():
                yield
            return
        await self._queue(tenant, left, told)  # with the place in hand
        try:
            yield
        finally:
            self._leave()

    async def _queue(self, tenant: str, left: float, told: Mapping[str, Any]) -> None:
        """Returns with the place in hand."""
        expected = self._expected(tenant)
        full = self.closed or expected > self._patience or self._line_is_long(tenant)
        if full or expected > left:
            raise self._refusal("full" if full else "deadline", expected, told)
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(place)
        self._waiting.inc()
        given = False
        try:
            async with asyncio.timeout(min(PATIENT * self._patience, left)):
                given = await place
        except TimeoutError:
            given = _given(place)
        except asyncio.CancelledError:
            if _given(place):  # the caller has gone with the place in his hand
                self._leave()
            raise
        finally:
            self._waiting.dec()
            self._forget(tenant, place)
        if not given:
            raise self._refusal("waited", self._expected(tenant), told)

    def _refusal(self, why: str, expected: float, told: Mapping[str, Any]) -> Overloaded:
        self._refused.labels("heavy", why).inc()
        return Overloaded(FULL, retry_after=max(1.0, expected), **told)

    def _expected(self, tenant: str) -> float:
        """Seconds until another message of a tenant would have its place. Tenants take turns, so a long line of another one's does not
        matter."""
        mine = len(self._lines.get(tenant, ()))
        before = sum(min(len(line), mine + 1) for who, line in self._lines.items() if who != tenant) + mine
        gap = UNKNOWN_SECONDS / max(1, self.limit.now) if self._gap is None else self._gap
        now = time.monotonic()
        self._full_since = self._full_since or now
        return (before + 1) * max(gap, (now - self._full_since) / 2)  # nothing has got free for long: it is slower than it was

    def _line_is_long(self, tenant: str) -> bool:
        """Whether the messages of a tenant that wait are as many as may: all tenants' together about as many as may run."""
        tenants = len(self._lines.keys() | {tenant})
        return len(self._lines.get(tenant, ())) >= max(1, self.limit.now // tenants)

    def _leave(self) -> None:
        self._held -= 1
        if self.room > 0:  # no turn has been made of it
            self._freed()

    def _freed(self) -> None:
        """A place has got free."""
        now = time.monotonic()
        if self._full_since is not None:
            gap = now - self._full_since
            self._gap = gap if self._gap is None else self._gap + NEWS * (gap - self._gap)
            self._full_since = now
        self._serve()
        if self.room > 0:
            self._full_since = None
        if 2 * self.under_way <= self.limit.now:  # it is over: the next time may be another kind of load
            self._gap = None

    def _serve(self) -> None:
        """Gives places that are free to those that wait."""
        while self._lines and self.room > 0:
            tenant, line = next(iter(self._lines.items()))
            place = line.popleft()
            del self._lines[tenant]
            if line:
                self._lines[tenant] = line  # behind the others
            if not place.done():
                self._held += 1
                place.set_result(True)

    def _forget(self, tenant: str, place: asyncio.Future[bool]) -> None:
        line = self._lines.get(tenant)
        if line is not None and place in line:
            line.remove(place)
            if not line:
                del self._lines[tenant]


def _given(place: asyncio.Future[bool]) -> bool:
    return place.done() and not place.cancelled() and place.result()
