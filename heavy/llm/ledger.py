"""Keeps the ledger of LLM calls: lines gather in memory and go to the database in batches, a fifth of a second later at most.

While the database is away they wait, up to a bound; what does not fit is dropped, counted and logged. A line that is in the database twice
counts once (by its call id), so a batch whose fate is not known is simply written again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from itertools import islice

from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics, Number
from heavy.llm.legs import CallRecord
from heavy.llm.stores import LedgerStore

GATHER_SECONDS = 0.15
BATCH = 500
MOST_WAITING = 20_000  # lines, about 1 KB each
AGAIN_SECONDS = 0.5
FLUSH_SECONDS = 5.0
QUIET_SECONDS = 5.0
log = logging.getLogger(__name__)


class Ledger:
    """Implements heavy.llm.legs.Books. `run` writes as long as it runs, `flush` at the end."""

    def __init__(self, store: LedgerStore, metrics: Metrics, most_waiting: int = MOST_WAITING) -> None:
        self._store = store
        self._most = most_waiting
        self._waiting_now = metrics.ledger_waiting
        self._written_total: Number = metrics.ledger_lines_total.labels("written")
        self._dropped_total: Number = metrics.ledger_lines_total.labels("dropped")
        self._waiting: deque[CallRecord] = deque()
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._ended = 0  # lines that are written or dropped, of all that ever came
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []
        self._quiet_until = 0.0

    def record(self, call: CallRecord) -> None:
        """Takes a line. Never raises, never waits."""
        if len(self._waiting) >= self._most:
            self._dropped_total.inc()
            self._complain("the ledger is full (%d lines wait for the database): an LLM call is not in it", len(self._waiting))
            return
        self._waiting.append(call)
        self._waiting_now.set(len(self._waiting))
        self._some.set()

    async def caught_up(self) -> None:
        """Waits until the lines that have come by now are written (or dropped)."""
        if self._waiting:
            written = asyncio.get_running_loop().create_future()
            self._watchers.append((self._ended + len(self._waiting), written))
            await written

    async def run(self) -> None:
        """Writes what comes. Runs until cancelled."""
        while True:
            await self._some.wait()
            if len(self._waiting) < BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            try:
                await self._write()
            except DependencyUnavailable as e:
                self._complain("the ledger waits for the database (%d lines): %s", len(self._waiting), e.detail)
                await asyncio.sleep(AGAIN_SECONDS)

    async def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Writes all that waits, for so long; what is left then is lost, and told in the log."""
        try:
            async with asyncio.timeout(seconds):
                while self._waiting:
                    try:
                        await self._write()
                    except DependencyUnavailable:
                        await asyncio.sleep(AGAIN_SECONDS)
        except TimeoutError:
            log.error("the process ends with lines of the ledger that the database did not take", extra={"count": len(self._waiting)})
            self._end(len(self._waiting), self._dropped_total)

    async def _write(self) -> None:
        """The oldest lines. They wait until the database has them: a batch that was cancelled is written again."""
        async with self._writing:
            batch = list(islice(self._waiting, BATCH))
            if batch:
                await self._store.record(batch)
                self._end(len(batch), self._written_total)

    def _end(self, count: int, counter: Number) -> None:
        """The first `count` lines that wait have come to their end."""
        for _ in range(count):
            self._waiting.popleft()
        counter.inc(count)
        self._waiting_now.set(len(self._waiting))
        if not self._waiting:
            self._some.clear()
        self._ended += count
        while self._watchers and self._watchers[0][0] <= self._ended:
            _, written = self._watchers.pop(0)
            if not written.done():
                written.set_result(None)

    def _complain(self, message: str, *args: object) -> None:
        now = time.monotonic()
        if now > self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.warning(message, *args)
