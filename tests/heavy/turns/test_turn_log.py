"""The log of one turn: a slow or absent hot store costs no event and no order, and another writer is never overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from common.contracts.events import Event
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from heavy.turns.log import TurnLog
from tests.support.waiting import wait_until


class LosesReplies(MemoryHotStore):
    """Takes the first append, but the reply is lost."""

    appends = 0

    async def log_append(self, key: str, at: int, items: Sequence[bytes], ttl: float) -> bool:
        self.appends += 1
        done = await super().log_append(key, at, items, ttl)
        if self.appends == 1:
            raise HotStoreUnavailable("too slow")
        return done


def text(n: int) -> Event:
    return Event("text", {"delta": f"word{n} "})


async def test_a_lost_reply_loses_no_event() -> None:
    store = LosesReplies()
    log = TurnLog(store, "t_1")
    log.emit(text(1))
    await log.flush()
    log.emit(text(2))
    log.emit(Event("complete", {}))
    await log.flush()
    assert await store.log_read(keys.events("t_1"), 0) == log.lines


async def test_another_writer_ends_the_copying() -> None:
    store = LosesReplies()
    store.appends = 1
    log = TurnLog(store, "t_1")
    await store.log_append(keys.events("t_1"), 0, [b"theirs"], 60)
    for n in range(5):
        log.emit(text(n))
        await log.flush()
    assert await store.log_read(keys.events("t_1"), 0) == [b"theirs"]
    assert store.appends == 3
    assert len(log.lines) == 5


async def test_readers_end_when_the_turn_leaves() -> None:
    log = TurnLog(MemoryHotStore(), "t_1")
    log.emit(text(1))
    seen = []
    async for number, _ in log.follow(0):
        seen.append(number)
        log.abandon()
    assert seen == [1]
    assert log.abandoned
    await log.flush()


async def test_nothing_follows_the_end() -> None:
    log = TurnLog(MemoryHotStore(), "t_1")
    log.emit(Event("complete", {}))
    log.emit(text(1))
    log.abandon()
    assert len(log.lines) == 1
    assert not log.abandoned
    await wait_until(lambda: log.ended, "it has ended")
    await log.flush()


class Slow(MemoryHotStore):
    """Takes an append only once it may; `away` fails it then."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.away = asyncio.Event(), False

    async def log_append(self, key: str, at: int, items: Sequence[bytes], ttl: float) -> bool:
        await self.may.wait()
        if self.away:
            raise HotStoreUnavailable("away")
        return await super().log_append(key, at, items, ttl)


@pytest.mark.parametrize("away", [False, True])
async def test_a_reader_sees_what_the_hot_store_has(away: bool) -> None:
    """What a client has seen is there for the node that goes on; with the hot store away it is seen all the same."""
    store = Slow()
    store.away = away
    log, seen = TurnLog(store, "t_3"), []

    async def read() -> None:
        async for _, line in log.follow(0):
            seen.append(line)

    reader = asyncio.create_task(read())
    log.emit(text(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == []
    store.may.set()
    await wait_until(lambda: len(seen) == 1, "it is seen")
    assert bool(await store.log_read(keys.events("t_3"), 0)) is not away
    log.emit(Event("complete", {}))
    await reader
    assert seen == log.lines
