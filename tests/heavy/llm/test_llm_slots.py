"""Places for so many calls at once, first come, first served."""

from __future__ import annotations

import asyncio

import pytest

from heavy.llm.slots import Slots
from tests.support.waiting import wait_until


async def waiting(slots: Slots, name: str, served: list[str], patience: float = 30) -> None:
    if await slots.wait(patience):
        served.append(name)


async def test_a_free_place_goes_to_who_has_waited_longest_and_not_to_a_newcomer() -> None:
    slots, served = Slots(1), list[str]()
    assert slots.take()
    assert not slots.take()
    callers = []
    for name in "abc":
        callers.append(asyncio.create_task(waiting(slots, name, served)))
        await asyncio.sleep(0)
    slots.free()
    assert not slots.take()  # it is promised
    await wait_until(lambda: served == ["a"], "the first has it")
    slots.free()
    slots.free()  # b's, which it gives back at once
    await asyncio.gather(*callers)
    assert served == ["a", "b", "c"]
    slots.free()
    assert slots.used == 0


async def test_who_waits_too_long_goes_without() -> None:
    slots = Slots(1)
    slots.take()
    assert not await slots.wait(0.02)
    slots.free()
    assert slots.take()


@pytest.mark.parametrize("given", [False, True])
async def test_a_cancelled_caller_takes_no_place_with_him(given: bool) -> None:
    slots = Slots(1)
    slots.take()
    caller = asyncio.create_task(slots.wait(30))
    await asyncio.sleep(0)
    if given:
        slots.free()  # the place is his, but he does not know yet
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    if not given:
        slots.free()
    assert slots.used == 0
    assert slots.take()


async def test_the_expected_wait_grows_with_the_queue() -> None:
    slots = Slots(2)
    assert slots.expected(3.0) == 0
    slots.take()
    slots.take()
    assert slots.expected(3.0) == 1.5
    caller = asyncio.create_task(slots.wait(30))
    await asyncio.sleep(0)
    assert slots.expected(3.0) == 3.0
    slots.free()
    assert await caller
    assert Slots(None).expected(3.0) == 0
