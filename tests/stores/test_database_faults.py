"""Databases that go away, come back, fill up or are locked: a typed error in good time, nothing half written, use again afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.errors import DependencyUnavailable
from heavy.storage.open import open_stores
from heavy.storage.postgres import connection as postgres_connection
from heavy.storage.sqlite import connection as sqlite_connection
from heavy.turns.stores import Stores
from tests.support.services import PostgresServer, free_port
from tests.support.turns import LEASE, answer, fence_of, journal_entry, new_turn
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    own = PostgresServer()
    own.start()
    yield own
    own.close()


@pytest.fixture
async def postgres(server: PostgresServer) -> AsyncIterator[Stores]:
    stores = await open_stores(server.create_database())
    yield stores
    await stores.aclose()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Stores]:
    stores = await open_stores(f"sqlite:///{tmp_path}/l.db")
    yield stores
    await stores.aclose()


async def talk(stores: Stores, turn_id: str, session_id: str = "s1") -> None:
    accepted = await stores.turns.accept(new_turn(turn_id, session_id), owner="a", lease_seconds=LEASE)
    await stores.turns.finish(fence_of(accepted.turn), answer())


async def test_a_restart_of_postgres_is_invisible(server: PostgresServer, postgres: Stores) -> None:
    await asyncio.gather(*(talk(postgres, f"t_a{i}", f"s{i}") for i in range(10)))
    server.stop()
    server.start()
    await asyncio.gather(*(talk(postgres, f"t_b{i}", f"s{i}") for i in range(10)))
    assert await postgres.sessions.count() == 10


async def test_a_restart_under_load_loses_and_doubles_nothing(server: PostgresServer, postgres: Stores) -> None:
    done = 0

    async def work(worker: int) -> None:
        nonlocal done
        for i in range(40):
            await talk(postgres, f"t_{worker}_{i}", f"s{worker}")
            done += 1

    workers = [asyncio.ensure_future(work(n)) for n in range(4)]
    await wait_until(lambda: done > 20, "some turns are done")
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await asyncio.gather(*workers)
    for n in range(4):
        session = await postgres.sessions.get("acme", f"s{n}")
        assert session is not None
        assert (session.turn_seq, session.active, session.message_count) == (40, 0, 80)


async def test_postgres_away_gives_503_at_once_after_a_short_grace(
    server: PostgresServer, postgres: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "GRACE_SECONDS", 0.3)
    await talk(postgres, "t_1")
    server.stop()
    try:
        with pytest.raises(DependencyUnavailable) as e:
            await talk(postgres, "t_2")
        assert (e.value.detail, e.value.retry_after) == ("the database is unavailable", 1.0)
        start = time.perf_counter()
        with pytest.raises(DependencyUnavailable):
            await postgres.turns.record_rule_turns([journal_entry("t_3")])
        with pytest.raises(DependencyUnavailable):
            await postgres.ping()
        assert time.perf_counter() - start < 0.5
    finally:
        server.start()
    await talk(postgres, "t_2")
    assert await postgres.turns.record_rule_turns([journal_entry("t_3")]) == 1


async def test_no_postgres_at_start_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connection, "GRACE_SECONDS", 0.1)
    with pytest.raises(DependencyUnavailable):
        await open_stores(f"postgresql://nobody@127.0.0.1:{free_port()}/none")


async def test_an_unknown_database_is_refused_without_retrying(server: PostgresServer) -> None:
    with pytest.raises(DependencyUnavailable):
        await open_stores(server.url("not_there"))


async def test_a_locked_sqlite_file_gives_503_and_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_connection, "BUSY_SECONDS", 0.1)
    sqlite = await open_stores(f"sqlite:///{tmp_path}/l.db")
    await talk(sqlite, "t_1")
    other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyUnavailable):
        await talk(sqlite, "t_2")
    found = await sqlite.turns.get("acme", "t_1")  # reading goes on
    assert found is not None
    other.execute("ROLLBACK")
    other.close()
    await talk(sqlite, "t_2")
    await sqlite.aclose()


async def test_a_full_sqlite_file_gives_503_and_keeps_its_integrity(tmp_path: Path) -> None:
    stores = await open_stores(f"sqlite:///{tmp_path}/l.db")
    await talk(stores, "t_1")
    writer = stores._writer  # type: ignore[attr-defined]
    pages = await writer.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 5}").fetchone())
    with pytest.raises(DependencyUnavailable):
        await stores.turns.accept(new_turn("t_2", user_message="x" * 200_000), owner="a", lease_seconds=LEASE)
    session = await stores.sessions.get("acme", "s1")
    assert session is not None
    assert (session.turn_seq, session.active) == (1, 0)
    await writer.run(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
    await talk(stores, "t_2")
    await stores.aclose()
    check = sqlite3.connect(tmp_path / "l.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


async def test_a_job_that_fails_does_not_undo_its_neighbours_in_the_group(sqlite: Stores) -> None:
    async def wrong_agent() -> None:
        await sqlite.turns.accept(new_turn("t_x", agent_id="bank"), owner="a", lease_seconds=LEASE)

    await talk(sqlite, "t_0")
    results = await asyncio.gather(*(talk(sqlite, f"t_a{i}", f"n{i}") for i in range(5)), wrong_agent(), return_exceptions=True)
    assert results[:5] == [None] * 5
    assert isinstance(results[5], Exception)
    assert await sqlite.sessions.count() == 6


@pytest.mark.parametrize("kind", ["directory", "garbage"])
async def test_a_sqlite_path_that_can_not_be_a_database_is_a_clear_error(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "l.db"
    if kind == "directory":
        target.mkdir()
    else:
        target.write_bytes(b"this is no database, " * 100)
    with pytest.raises(DependencyUnavailable):
        await open_stores(f"sqlite:///{target}")


async def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DependencyUnavailable):
        await open_stores(f"sqlite:///{tmp_path}/file/l.db")


async def test_an_in_memory_database_works_through_one_connection() -> None:
    stores = await open_stores("sqlite:///:memory:")
    await talk(stores, "t_1")
    assert await stores.sessions.count() == 1
    await stores.aclose()
    with pytest.raises(DependencyUnavailable):
        await stores.sessions.count()
