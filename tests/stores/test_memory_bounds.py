"""The memory hot store stays within its bounds: expiry, eviction, a full journal, dead consumers by its own clock."""

from __future__ import annotations

import pytest

from common.hotstore.inbox import LIMIT, Inbox
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_expired_keys_are_swept_without_being_read() -> None:
    clock = Clock()
    store = MemoryHotStore(clock=clock)
    for i in range(999):
        await store.set(f"old{i}", b"x" * 10, 5)
    clock.now = 6
    await store.set("new", b"y", 5)
    assert store._bytes == 1


async def test_the_least_recently_written_values_go_first_and_logs_last() -> None:
    store = MemoryHotStore(max_bytes=1000)
    await store.log_append("log", 0, [b"l" * 100], 60)
    for i in range(20):
        await store.set(f"k{i}", b"x" * 100, 60)
    assert await store.get("k0") is None
    assert await store.get("k19") is not None
    assert await store.log_length("log") == 1
    assert store._bytes <= 1000


async def test_a_full_journal_refuses_instead_of_forgetting() -> None:
    store = MemoryHotStore(max_journal=1)
    await store.record("g", "p", "t_1", b"1", b"r")
    with pytest.raises(HotStoreUnavailable):
        await store.record("g", "p", "t_2", b"2", b"r")
    assert list(await store.pending("p")) == ["t_1"]


async def test_entries_of_a_consumer_silent_for_thirty_seconds_go_to_another() -> None:
    clock = Clock()
    store = MemoryHotStore(clock=clock)
    await store.record("g", "p", "t_1", b"1", b"r")
    await store.journal_read("dead", 10)
    clock.now = 29
    assert await store.journal_read("alive", 10) == []
    clock.now = 31
    assert [i.entry for i in await store.journal_read("alive", 10)] == [b"1"]


async def test_a_slow_subscriber_loses_the_oldest_messages() -> None:
    inbox = Inbox()
    for i in range(LIMIT + 2):
        inbox.put(str(i).encode())
    assert await anext(inbox) == b"2"
