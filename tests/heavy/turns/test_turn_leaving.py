"""A process that ends: its turns end in time or go on elsewhere, and whoever reads them here sees them to their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.contracts.events import event_type
from common.hotstore.memory import MemoryHotStore
from heavy.jobs.reconcile import TakeOver
from heavy.turns.stores import Stores
from tests.support.node import Node, node
from tests.support.waiting import wait_until


@pytest.fixture
async def two(stores: Stores) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes on the same stores; the second one looks out for turns that the first one leaves."""
    hotstore = MemoryHotStore()
    async with node(stores, hotstore) as here, node(stores, hotstore) as there:
        look_out = TakeOver(stores.turns, hotstore, there.owner, there.turns)
        tasks = [asyncio.create_task(look_out.run()), asyncio.create_task(look_out.listen())]
        yield here, there
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_turn_that_ends_in_time_ends_here(two: tuple[Node, Node]) -> None:
    here, _ = two
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    leaving = asyncio.create_task(here.turns.drain(2))
    here.gateway.open.set()
    await leaving
    row = await here.row("t_1")
    assert (row.state, row.attempt) == ("done", 1)


async def test_a_turn_that_cannot_end_goes_on_elsewhere(two: tuple[Node, Node]) -> None:
    """At once, not after its lease; its reader here sees one unbroken stream."""
    here, there = two
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    reading = asyncio.create_task(here.events("t_1"))
    await here.turns.drain(0.2)
    events = await reading
    assert [n for n, _ in events] == list(range(1, len(events) + 1))
    assert [event_type(line) for _, line in events] == ["start", "route", *["text"] * 5, "complete"]
    await there.idle()
    row = await there.row("t_1")
    assert (row.state, row.attempt, row.owner) == ("done", 2, there.owner.name)


async def test_what_waits_goes_first(two: tuple[Node, Node]) -> None:
    here, there = two
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    await here.say("t_2", "second")
    leaving = asyncio.create_task(here.turns.drain(1.5))
    await wait_until(lambda: here.owner.get("t_2") is None, "what waits is given up")
    assert here.owner.get("t_1") is not None
    await leaving
    assert event_type((await there.events("t_2"))[-1][1]) == "complete"
    assert (await there.row("t_1")).seq < (await there.row("t_2")).seq
    assert [m.message.content for m in await there.stores.turns.turn_messages("acme", "t_1")][1:] == ["you said hello there friend"]


async def test_leaving_twice_is_leaving_once(two: tuple[Node, Node]) -> None:
    here, _ = two
    await asyncio.gather(here.turns.drain(0), here.turns.drain(0))
    assert here.turns.room == 0
