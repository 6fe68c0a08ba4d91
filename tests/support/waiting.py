"""Waiting for something to become true, with a name for what did not: the only place in the tests that sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

INTERVAL = 0.01


async def wait_until(predicate: Callable[[], object | Awaitable[object]], what: str, seconds: float = 20) -> None:
    """Returns once `predicate` (plain or async) gives a true value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not so: {what}")
        await asyncio.sleep(INTERVAL)


def wait_until_sync(predicate: Callable[[], object], what: str, seconds: float = 20) -> None:
    """The same for tests and fixtures without an event loop."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not so: {what}")
        time.sleep(INTERVAL)
