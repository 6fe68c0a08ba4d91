"""Lines reach the database soon, in batches, once; they wait while it is away, up to a bound, and are written at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics
from common.web.background import stop
from heavy.llm.ledger import Ledger
from heavy.llm.legs import CallRecord
from tests.support.ledger import call
from tests.support.waiting import wait_until


class Shelf:
    """A store that may be away, and that may be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.away = False
        self.open = asyncio.Event()
        self.open.set()

    async def record(self, calls: Sequence[CallRecord]) -> int:
        await self.open.wait()
        if self.away:
            raise DependencyUnavailable("away")
        self.batches.append([c.call_id for c in calls])
        return len(calls)

    @property
    def lines(self) -> list[str]:
        return [line for batch in self.batches for line in batch]


@asynccontextmanager
async def running(ledger: Ledger) -> AsyncIterator[None]:
    task = asyncio.create_task(ledger.run())
    try:
        yield
    finally:
        await stop(task)


def figures(metrics: Metrics) -> tuple[float, float, float]:
    """Waiting, written, dropped."""
    lines = metrics.ledger_lines_total
    waiting = metrics.registry.get_sample_value("loadsplit_ledger_waiting")
    return waiting or 0.0, lines.labels("written").value, lines.labels("dropped").value


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def test_lines_are_written_together_and_soon(shelf: Shelf) -> None:
    metrics = Metrics()
    ledger = Ledger(shelf, metrics)  # type: ignore[arg-type]
    async with running(ledger):
        began = time.monotonic()
        for n in range(30):
            ledger.record(call(f"c{n}"))
        assert figures(metrics) == (30, 0, 0)
        await ledger.caught_up()
        assert time.monotonic() - began < 2
    assert shelf.batches == [[f"c{n}" for n in range(30)]]
    assert figures(metrics) == (0, 30, 0)


async def test_whoever_waits_hears_when_his_lines_are_written(shelf: Shelf) -> None:
    ledger = Ledger(shelf, Metrics())  # type: ignore[arg-type]
    await ledger.caught_up()  # there is nothing to wait for
    async with running(ledger):
        shelf.open.clear()
        ledger.record(call("c1"))
        first = asyncio.create_task(ledger.caught_up())
        gone = asyncio.create_task(ledger.caught_up())
        await asyncio.sleep(0)
        gone.cancel()
        assert not first.done()
        shelf.open.set()
        await first
        assert shelf.lines == ["c1"]


async def test_lines_wait_while_the_database_is_away(shelf: Shelf) -> None:
    metrics = Metrics()
    ledger = Ledger(shelf, metrics)  # type: ignore[arg-type]
    shelf.away = True
    async with running(ledger):
        for n in range(1200):
            ledger.record(call(f"c{n}"))
        await wait_until(lambda: ledger._quiet_until, "the ledger has tried")
        assert figures(metrics) == (1200, 0, 0)
        shelf.away = False
        await ledger.caught_up()
    assert shelf.lines == [f"c{n}" for n in range(1200)]
    assert max(map(len, shelf.batches)) == 500


async def test_what_does_not_fit_is_dropped_and_counted(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    ledger = Ledger(shelf, metrics, most_waiting=10)  # type: ignore[arg-type]
    for n in range(15):
        ledger.record(call(f"c{n}"))
    assert figures(metrics) == (10, 0, 5)
    assert sum("the ledger is full" in r.message for r in caplog.records) == 1
    await ledger.flush()
    assert shelf.lines == [f"c{n}" for n in range(10)]


async def test_the_end_writes_what_waits_also_what_was_being_written(shelf: Shelf) -> None:
    ledger = Ledger(shelf, Metrics())  # type: ignore[arg-type]
    shelf.open.clear()
    async with running(ledger):
        for n in range(3):
            ledger.record(call(f"c{n}"))
        await wait_until(lambda: ledger._writing.locked(), "the ledger writes")
    shelf.open.set()
    await ledger.flush()
    assert shelf.lines == ["c0", "c1", "c2"]


async def test_the_end_does_not_wait_for_ever(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    ledger = Ledger(shelf, metrics)  # type: ignore[arg-type]
    shelf.away = True
    ledger.record(call())
    await ledger.flush(seconds=0.05)
    assert figures(metrics) == (0, 0, 1)
    assert "did not take" in caplog.text
