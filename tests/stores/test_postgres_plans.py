"""Statements of a turn's life find their rows by the whole key, also when PostgreSQL has planned them while the tables were empty.

A plan is kept until the next ANALYZE: one that goes through all sessions of a tenant costs more with each of them.
"""

from __future__ import annotations

import re

import asyncpg
import pytest

from heavy.storage.open import open_stores
from heavy.storage.postgres import rule_turns, turn_statements

STEPS = ["ACCEPT", "FOLLOW", "FINISH", "FINISH_WITH_MORE", "PAUSE", "POSTPONE", "REOPEN", "DECIDE", "CANCEL"]


async def planned(database: str, statement: str) -> list[str]:
    """The lines of a statement's generic plan in an empty database."""
    await (await open_stores(database)).aclose()  # migrates
    count = max(int(n) for n in re.findall(r"\$(\d+)", statement))
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE step AS {statement}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE step({', '.join(['NULL'] * count)})")
    finally:
        await connection.close()
    return [str(row[0]) for row in rows]


@pytest.mark.parametrize("name", STEPS)
async def test_sessions_are_found_by_their_whole_key(postgres_database: str, name: str) -> None:
    lines = await planned(postgres_database, getattr(turn_statements, name))
    scans = [n for n, line in enumerate(lines) if re.search(r"Scan .*on sessions", line)]
    conditions = [" ".join(lines[n + 1 : n + 3]) for n in scans]
    assert [c for c in conditions if not re.search(r"Index Cond: .*tenant.*session_id", c)] == [], "\n".join(lines)
    assert "Update on sessions" in "\n".join(lines) or "Insert on sessions" in "\n".join(lines)


async def test_turns_of_rules_are_looked_up_one_by_one(postgres_database: str) -> None:
    text = "\n".join(await planned(postgres_database, rule_turns.RECORD))
    assert "Seq Scan on turns" not in text
    assert re.search(r"on turns .*\n\s+Index Cond: .*tenant.*turn_id", text), text


async def test_sessions_that_rules_answered_in_are_locked_one_by_one(postgres_database: str) -> None:
    text = "\n".join(await planned(postgres_database, rule_turns.LOCK))
    assert re.search(r"on sessions\s.*\n\s+Index Cond: .*tenant.*session_id", text), text
