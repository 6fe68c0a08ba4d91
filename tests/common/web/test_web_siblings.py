"""The workers' lines to their supervisor: one page of all, also of those that hang, were killed in the middle of a word, or have ended."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics
from common.web.siblings import Place, Sibling
from common.web.worker_pages import WorkerPages
from tests.support.waiting import wait_until


@pytest.fixture
async def line() -> AsyncIterator[tuple[WorkerPages, str]]:
    """A supervisor's end, and where it hears."""
    pages = WorkerPages()
    with tempfile.TemporaryDirectory(prefix="loadsplit-line-") as folder:  # pytest's own path may be too long for a socket
        path = str(Path(folder, "line"))
        async with await pages.listen(path):
            yield pages, path


async def joined(path: str, pages: WorkerPages, hits: int = 0) -> Metrics:
    metrics = Metrics()
    metrics.workers.set(1)
    metrics.journal_moved_total.inc(hits)
    Sibling(Place((), path), metrics).join()
    await wait_until(lambda: pages.serves(os.getpid()), "it has said that it serves")
    return metrics


def told(page: bytes, name: str) -> float:
    return next(float(line.rpartition(b" ")[2]) for line in page.splitlines() if line.startswith(b"loadsplit_" + name.encode() + b" "))


def test_a_place_is_an_argument() -> None:
    place = Place((5, 7), "/tmp/a:b/line")
    assert Place.read(str(place)) == place
    with pytest.raises(ValueError, match="invalid literal"):
        Place.read("five:/tmp/line")


async def test_whoever_is_asked_tells_of_all(line: tuple[WorkerPages, str]) -> None:
    pages, path = line
    first, second = await joined(path, pages, 2), await joined(path, pages, 3)
    pages.restarts = 4
    for metrics in (first, second):
        assert metrics.of_all_workers
        page = await metrics.of_all_workers()
        assert (told(page, "journal_moved_total"), told(page, "workers"), told(page, "worker_restarts_total")) == (5, 2, 4)
    first.journal_moved_total.inc()  # no page is older than its question
    assert second.of_all_workers
    assert told(await second.of_all_workers(), "journal_moved_total") == 6
    both = await asyncio.gather(second.of_all_workers(), second.of_all_workers())
    assert [told(page, "journal_moved_total") for page in both] == [6, 6]


async def test_one_that_hangs_and_one_that_was_killed_count_as_they_last_said(line: tuple[WorkerPages, str]) -> None:
    pages, path = line
    metrics, hung = await joined(path, pages, 2), Metrics()
    hung.workers.set(1)
    hung.journal_moved_total.inc(5)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(orjson.dumps({"pid": -1, "page": hung.render().decode()}) + b"\n")
    await wait_until(lambda: pages.serves(-1), "it has said that it serves")
    assert metrics.of_all_workers
    page = await metrics.of_all_workers()
    assert (told(page, "journal_moved_total"), told(page, "workers")) == (7, 2)
    writer.write(b'{"page": "# HELP loadsp')
    writer.close()
    await wait_until(lambda: not pages.serves(-1), "it is known to be gone")
    page = await metrics.of_all_workers()
    assert (told(page, "journal_moved_total"), told(page, "workers")) == (7, 1)
    assert not reader.at_eof()


async def test_without_its_supervisor_a_worker_tells_nothing(tmp_path: Path) -> None:
    metrics = Metrics()
    Sibling(Place((), str(tmp_path / "gone")), metrics).join()
    assert metrics.of_all_workers
    with pytest.raises(DependencyUnavailable, match="supervisor"):
        await metrics.of_all_workers()
