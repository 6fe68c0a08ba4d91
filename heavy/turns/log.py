"""The event log of one turn: numbered events, kept here while it runs and copied to the hot store for other replicas and late readers.

Numbers are given once, by the running turn, so that a live stream and a replay show the same ids. A reader sees an event once the hot store
has it (or cannot take it): what was seen is there for the node that goes on. Deltas that arrive while a write is under way go out together
with the next one. It knows no SSE and no database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import orjson

from common.contracts.events import TERMINAL, Event, event_type, payload
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable

MAX_BATCH, BATCH_BYTES = 256, 65_536


class TurnLog:
    """Events of one turn, in order; the event with id n is `lines[n - 1]`."""

    def __init__(self, hotstore: HotStore, turn_id: str) -> None:
        self.turn_id = turn_id
        self.lines: list[bytes] = []
        self.ended = False
        self.abandoned = False
        self.committed = False  # the turn's end is in the database: nothing may stop its run any more
        self._hotstore = hotstore
        self._keep: float = keys.EVENTS_TTL
        self._stored = 0
        self._alone = False  # the hot store does not take events now: readers see them all the same
        self._in_doubt: int | None = None  # where a batch ends that the hot store may or may not have taken
        self._overtaken = False
        self._waiting: list[asyncio.Future[None]] = []  # who wants to know of more; an asyncio.Event is 0.7 KB of every open stream
        self._writer: asyncio.Task[None] | None = None

    def emit(self, event: Event, keep: float = keys.EVENTS_TTL) -> None:
        """Numbers an event and hands it to every reader; the log is kept for that many seconds from now. After the terminal event nothing
        follows."""
        if self.ended:
            return
        self._keep = keep
        self.lines.append(payload(event))
        self.ended = event.type in TERMINAL
        if self._alone or self.ended:
            self._wake()
        if not self._overtaken and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write(), name=f"log {self.turn_id}")

    def continue_from(self, earlier: Sequence[bytes]) -> None:
        """Puts the events of an earlier attempt, which the hot store has already, before all others."""
        self.lines[:0] = earlier
        self._stored += len(earlier)

    def abandon(self) -> None:
        """This process does not go on with the turn: readers must look in the hot store. Without effect after the terminal event."""
        if self.ended:
            return
        self.ended = self.abandoned = True
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[tuple[int, bytes]]:
        """(id, line) of every event after the first `after`, live, until the log has ended."""
        async with contextlib.aclosing(self.batches(after)) as batches:
            async for first, lines in batches:
                for position, line in enumerate(lines, first):
                    yield position, line

    async def batches(self, after: int) -> AsyncGenerator[tuple[int, list[bytes]]]:
        """The same in bunches: (id of the first, all lines that are there by now, at most MAX_BATCH and about BATCH_BYTES). Deltas that
        came out of one read from the model so leave in one write to the client, and one that reads slowly is sent no more than that."""
        position = after
        while True:
            while lines := self.lines[position : min(position + MAX_BATCH, self._shown)]:
                if (size := sum(map(len, lines))) > BATCH_BYTES:
                    lines = lines[: max(1, len(lines) * BATCH_BYTES // size)]
                yield position + 1, lines
                position += len(lines)
            if self.ended and (self.abandoned or position >= len(self.lines)):
                return
            await self._next()

    async def wait_end(self) -> None:
        """Returns when the terminal event is there (or the turn was abandoned)."""
        while not self.ended:
            await self._next()

    async def flush(self) -> None:
        """Waits until the hot store has (or has refused) everything."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def text(self) -> str:
        """The concatenation of all text deltas so far: what the user has seen."""
        return text_of(self.lines)

    @property
    def _shown(self) -> int:
        """How many events readers may see."""
        return len(self.lines) if self._alone else self._stored

    async def _next(self) -> None:
        news = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        await news

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():  # who waited may have gone
                news.set_result(None)

    async def _write(self) -> None:
        key = keys.events(self.turn_id)
        while self._stored < len(self.lines):
            # a batch without an answer may have been taken: only the very same one can be repeated
            end = self._in_doubt or len(self.lines)
            self._in_doubt = end
            try:
                if not await self._hotstore.log_append(key, self._stored, self.lines[self._stored : end], self._keep):
                    self._overtaken = self._alone = True  # another attempt writes this log now, or the hot store was wiped
            except HotStoreUnavailable:
                self._alone = True  # readers on this node still have everything; the rest is rebuilt from the database at the end
            else:
                if not self._overtaken:
                    self._stored, self._in_doubt, self._alone = end, None, False
            self._wake()
            if self._alone:
                return


def text_of(lines: Sequence[bytes]) -> str:
    """The concatenation of the text deltas among logged events."""
    return "".join(orjson.loads(line)["data"]["delta"] for line in lines if event_type(line) == "text")
