"""Following a session's events without HTTP: a slow reader holds one page, and an absent hot store or database costs time, not events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import pytest

from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from heavy import streaming
from heavy.storage.open import open_stores
from heavy.streaming import SessionReader
from heavy.turns.rows import Note, SessionEvent, SessionRow, StoredEvent
from heavy.turns.stores import DatabaseUnavailable, Stores
from tests.support.turns import answer, fence_of, new_turn
from tests.support.waiting import wait_until


@pytest.fixture
async def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stores]:
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.01)
    opened = await open_stores(f"sqlite:///{tmp_path}/events.db")
    accepted = await opened.turns.accept(new_turn(), owner="n1", lease_seconds=10)
    await opened.turns.finish(fence_of(accepted.turn), answer())
    yield opened
    await opened.aclose()


async def happen(stores: Stores, count: int) -> None:
    events = [SessionEvent("session.message", {"session_id": "s1", "text": str(n)}) for n in range(count)]
    assert await stores.sessions.note(Note("acme", "s1", events=events))


async def take(events: AsyncIterator[StoredEvent], count: int) -> list[int]:
    async with asyncio.timeout(5):
        return [(await anext(events)).id for _ in range(count)]


def reader_of(stores: Stores, hotstore: MemoryHotStore | None = None) -> SessionReader:
    return SessionReader(stores.sessions, hotstore or MemoryHotStore(), lambda: False)


class Away(MemoryHotStore):
    """Nobody can subscribe."""

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._refuse()

    @asynccontextmanager
    async def _refuse(self) -> AsyncIterator[AsyncIterator[bytes]]:
        raise HotStoreUnavailable("the hot store is away")
        yield aiter(())


async def test_a_reader_takes_pages_as_it_reads(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAGE", 10)
    read, pages = stores.sessions.events, list[int]()

    async def counted(tenant: str, session_id: str, *, after: int, limit: int) -> Sequence[StoredEvent]:
        pages.append(after)
        return await read(tenant, session_id, after=after, limit=limit)

    monkeypatch.setattr(stores.sessions, "events", counted)
    await happen(stores, 100)
    async with aclosing(reader_of(stores).follow("acme", "s1", 0)) as events:
        assert await take(events, 1) == [1]
        assert pages == [0]
        assert await take(events, 10) == list(range(2, 12))
        assert pages == [0, 10]


async def test_without_a_hot_store(stores: Stores) -> None:
    async with aclosing(reader_of(stores, Away()).follow("acme", "s1", 0)) as events:
        await happen(stores, 1)
        assert await take(events, 1) == [1]
        await happen(stores, 2)
        assert await take(events, 2) == [2, 3]


async def test_the_database_is_away_for_a_while(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    get, refused = stores.sessions.get, 0

    async def away(tenant: str, session_id: str) -> SessionRow | None:
        nonlocal refused
        refused += 1
        raise DatabaseUnavailable("the database is away")

    async with aclosing(reader_of(stores).follow("acme", "s1", 0)) as events:
        await happen(stores, 1)
        assert await take(events, 1) == [1]
        monkeypatch.setattr(stores.sessions, "get", away)
        waiting = asyncio.create_task(take(events, 1))
        await wait_until(lambda: refused > 2, "it was looked for")
        await happen(stores, 1)
        monkeypatch.setattr(stores.sessions, "get", get)
        assert await waiting == [2]


async def test_the_last_reader_ends_the_watch(stores: Stores) -> None:
    reader = reader_of(stores)
    await happen(stores, 1)
    async with aclosing(reader.follow("acme", "s1", 0)) as one:
        async with aclosing(reader.follow("acme", "s1", 0)) as two:
            assert await take(one, 1) == await take(two, 1) == [1]
        assert len(reader._watches) == 1
    assert reader._watches == {}
