"""Databases of the first version come up to date with what is in them."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import asyncpg
import pytest

from common.contracts.query import Usage
from heavy.storage.migrations import CREATE_TABLE, migrations
from heavy.storage.open import migrate, open_stores
from tests.support.turns import LEASE, accept, answer, fence_of

FIRST = "0001_sessions_turns_messages"
ROWS = """
INSERT INTO sessions (tenant, session_id, agent_id, user_id, status, profile, turn_seq, active, message_count, created_at, updated_at)
VALUES ('acme', 's1', 'shop', 'u1', 'transferred', '{"name":"Li"}', 3, 2, 4, 1000, 1003),
    ('acme', 's2', 'shop', NULL, 'ready', '{}', 1, 0, 2, 1000, 1001);
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, request, reply, cost_usd, created_at)
VALUES ('acme', 's1', 1, 't_1', 'shop', 'done', 1, 'x', 5, '{"message":"a"}', '{"message":"b"}', 0.25, 1000),
    ('acme', 's1', 2, 't_2', 'shop', 'running', 1, 'x', 6, '{}', NULL, 0, 1001),
    ('acme', 's1', 3, 't_3', 'shop', 'waiting', 0, 'x', 7, '{}', NULL, 0, 1002),
    ('acme', 's2', 1, 't_4', 'shop', 'done', 1, 'x', 5, '{}', '{}', 0, 1000);
INSERT INTO messages VALUES ('acme', 's1', 1, 0, 't_1', '{"role":"user","content":"a","tool_calls":[],"tool_call_id":null}', 1000),
    ('acme', 's1', 2, 0, 't_2', '{"role":"user","content":"c","tool_calls":[],"tool_call_id":null}', 1001);
"""


async def execute(url: str, script: str) -> None:
    """Runs statements on a database of either kind."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(script)
        return
    postgres = await asyncpg.connect(url)
    try:
        await postgres.execute(script)
    finally:
        await postgres.close()


@pytest.fixture
async def old_database(database_url: str) -> str:
    """A database of the first version with two sessions, one of them in the middle of a turn."""
    first = migrations("sqlite" if database_url.startswith("sqlite") else "postgres")[0]
    assert first.name == FIRST
    await execute(database_url, f"{CREATE_TABLE}; INSERT INTO schema_migrations VALUES ('{FIRST}', 1); {first.sql} {ROWS}")
    return database_url


async def test_a_database_of_the_first_version_keeps_its_rows_and_goes_on(old_database: str) -> None:
    assert await migrate(old_database) == [m.name for m in migrations("sqlite")][1:]
    assert await migrate(old_database) == []
    stores = await open_stores(old_database)
    session, done = await stores.sessions.get("acme", "s1"), await stores.turns.get("acme", "t_1")
    assert session is not None
    assert done is not None
    assert (session.profile, session.handoff, session.event_seq, session.message_count) == ({"name": "Li"}, {}, 0, 4)
    assert (done.state, done.reply, done.usage, done.approval) == ("done", {"message": "b"}, Usage(cost_usd=0.25), None)
    assert [s.session_id for s in await stores.sessions.transferred("acme", limit=9)] == ["s1"]
    (running,) = await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=9)
    assert (running.turn_id, running.attempt) == ("t_2", 2)
    paused = await stores.turns.pause(
        fence_of(running), first_idx=1, messages=[], usage=Usage(), approval={"calls": []}, reply={}, events=[]
    )  # fmt: skip
    assert paused.active == 1
    claimed = await stores.turns.claim("acme", "t_3", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    after = await stores.turns.finish(fence_of(claimed), answer())
    assert (after.active, after.status, after.message_count) == (0, "ready", 5)
    assert (await accept(stores, "t_5", session_id="s2")).turn.seq == 2
    await stores.aclose()


NEWER = """
CREATE TABLE of_tomorrow (id text PRIMARY KEY);
ALTER TABLE sessions ADD COLUMN of_tomorrow text NOT NULL DEFAULT 'x';
INSERT INTO schema_migrations VALUES ('9999_of_tomorrow', 1);
"""


async def test_a_schema_of_the_next_release_is_worked_on(old_database: str) -> None:
    await migrate(old_database)
    await execute(old_database, NEWER)
    assert await migrate(old_database) == []
    stores = await open_stores(old_database)
    assert (await accept(stores, "t_5", session_id="s2")).turn.seq == 2
    assert (await accept(stores, "t_6", session_id="s3")).turn.seq == 1
    await stores.aclose()


def test_the_release_before_works_on_what_a_migration_makes() -> None:
    for migration in migrations("postgres"):  # SQLite makes tables anew, with the same columns and more
        sql = migration.sql.upper()
        assert not re.search(r"\b(DROP|RENAME) (TABLE|COLUMN)\b|\bRENAME TO\b", sql), (
            f"{migration.name} takes away what the release before reads"
        )
        for added in re.findall(r"ADD COLUMN ([^,;]*)", sql):
            assert "NOT NULL" not in added or "DEFAULT" in added, f"{migration.name}: the release before cannot write {added}"


async def test_turn_ids_are_still_unique_and_states_still_checked(old_database: str) -> None:
    await migrate(old_database)
    for wrong in ("state = 'lost' WHERE turn_id = 't_1'", "turn_id = 't_2' WHERE turn_id = 't_1'"):
        with pytest.raises((sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)):
            await execute(old_database, f"UPDATE turns SET {wrong}")
