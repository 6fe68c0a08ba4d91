"""`loadsplit purge` on a database of each kind: it erases what is too old and says what that was."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import asyncpg
import pytest

from heavy.jobs.stores import JobStores
from heavy.storage.open import open_stores
from tests.standalone.test_cli_input import run
from tests.support.tasks import end, submit
from tests.support.turns import talk

LONG_AGO = 10 * 86_400.0
OLD = (
    "UPDATE sessions SET created_at = created_at - {0}, updated_at = updated_at - {0}",
    "UPDATE turns SET created_at = created_at - {0}, finished_at = finished_at - {0}",
    "UPDATE tasks SET created_at = created_at - {0}, finished_at = finished_at - {0}",
)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_database"))


async def fill(database: str) -> None:
    """Three sessions of ten days ago, one of which goes on now; a task that has ended then and one that has not."""
    stores: JobStores = await open_stores(database)
    try:
        for n in range(3):
            await talk(stores, f"t_{n}", session_id=f"s{n}")
        await submit(stores, "t_a", "t_b")
        await stores.tasks.end("acme", [end("t_a")])
        await make_old(database)
        await talk(stores, "t_9", session_id="s1")
    finally:
        await stores.aclose()


async def make_old(database: str) -> None:
    """All that is there was there ten days ago."""
    statements = [statement.format(LONG_AGO) for statement in OLD]
    if database.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return
    server = await asyncpg.connect(database)
    try:
        for statement in statements:
            await server.execute(statement)
    finally:
        await server.close()


async def left(database: str) -> tuple[list[str], list[str]]:
    """The sessions with their turns, and the tasks."""
    stores: JobStores = await open_stores(database)
    try:
        turns = [
            t for n in range(3) for t in {m.turn_id for m in await stores.sessions.messages("acme", f"s{n}", limit=99, before_seq=None)}
        ]
        return sorted(turns), sorted(t.task_id for t in await stores.tasks.page("acme", limit=99))
    finally:
        await stores.aclose()


def test_what_is_too_old_goes(database: str, tmp_path: Path) -> None:
    env = {"LOADSPLIT_DATABASE_URL": database}
    asyncio.run(fill(database))
    kept = run("purge", "--days", "11", cwd=tmp_path, env=env)
    assert (kept.returncode, kept.stdout) == (0, "looked at 3 sessions; erased 0 sessions, 0 turns of others, 0 records\n")
    assert asyncio.run(left(database)) == (["t_0", "t_1", "t_2", "t_9"], ["t_a", "t_b"])
    done = run("purge", "--days", "9", "--record-days", "9", cwd=tmp_path, env=env)
    assert done.stdout == "looked at 3 sessions; erased 2 sessions, 1 turns of others, 1 records\n", done
    assert asyncio.run(left(database)) == (["t_9"], ["t_b"])


def test_a_server_that_is_at_it_is_left_alone(database: str, tmp_path: Path) -> None:
    async def begin() -> None:
        stores: JobStores = await open_stores(database)
        assert await stores.upkeep.begin("server", every_seconds=0, lease_seconds=60) is not None
        await stores.aclose()

    asyncio.run(begin())
    done = run("purge", "--days", "1", cwd=tmp_path, env={"LOADSPLIT_DATABASE_URL": database})
    assert (done.returncode, done.stdout) == (1, "")
    assert "a server is at it just now" in done.stderr


def test_nothing_to_do_is_told(tmp_path: Path) -> None:
    for arguments, part in (
        (("--record-days", "0"), "give --days"),
        (("--days", "-1"), "--days"),
        (("--days", "soon"), "--days"),
        (("--days", "99999"), "LOADSPLIT_RETENTION_DAYS"),
    ):
        done = run("purge", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert part in done.stderr
