"""Work that goes to its end although who waits for it is cancelled."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from heavy.turns.unbroken import unbroken


class Work:
    """Goes on when it may, and then fails if it shall."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.may_end = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        await self.may_end.wait()
        self.ended.set()
        if self.error is not None:
            raise self.error


async def test_its_result_and_its_error_are_its_callers() -> None:
    good, bad = Work(), Work(ValueError("broken"))
    good.may_end.set()
    bad.may_end.set()
    await unbroken(good.run())
    with pytest.raises(ValueError, match="broken"):
        await unbroken(bad.run())


async def test_a_cancelled_caller_waits_for_the_end() -> None:
    work = Work()
    caller = asyncio.create_task(unbroken(work.run()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended.is_set()


async def test_who_is_cancelled_twice_leaves_at_once_and_no_error_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(ValueError("broken"))
    caller = asyncio.create_task(unbroken(work.run()))
    await asyncio.sleep(0)
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await caller
    with caplog.at_level(logging.ERROR):
        work.may_end.set()
        await work.ended.wait()
        await asyncio.sleep(0)
        gc.collect()
    assert caplog.text == ""
