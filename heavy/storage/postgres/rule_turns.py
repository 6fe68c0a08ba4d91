"""Rule-answered turns on PostgreSQL: a batch of them with their sessions, messages and timers is one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from common.contracts.journal import JournalEntry
from heavy.storage.postgres.sessions import Runner
from heavy.storage.postgres.turn_statements import ARM_CONFLICT
from heavy.storage.rows import rule_rows, timer_values
from heavy.turns.rows import ArmTimer
from heavy.turns.stores import DatabaseUnavailable

# Whose turns are being written or moved elsewhere is waited for before RECORD looks which are new. In the order of the arrays, so that two
# movers can't lock each other out; sessions that are new to both meet in RECORD, in the order of its INSERT.
LOCK = """
SELECT count(*) FROM unnest($1::text[], $2::text[]) AS e (tenant, session_id),
    LATERAL (SELECT FROM sessions WHERE tenant = e.tenant AND session_id = e.session_id LIMIT 1 FOR NO KEY UPDATE) s
"""

# Arrays in the order of rows.RULE_COLUMNS, then $15 agents with a timer, and their timers' $16 kinds, $17 ids, $18 positions, $19 delays.
# Each turn is looked up by itself (LATERAL, LIMIT): a join that
# was planned while there were few reads them all.
RECORD = f"""
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::float8[], $14::float8[]) WITH ORDINALITY
        AS e (tenant, session_id, turn_id, agent_id, user_id, status, config_hash, greeting, request, reply, question, answer, at, began,
            ord)),
new AS (
    SELECT e.*, row_number() OVER (PARTITION BY tenant, session_id ORDER BY ord) AS n,
        count(*) OVER (PARTITION BY tenant, session_id) AS total
    FROM input e LEFT JOIN LATERAL (
        SELECT true AS here FROM turns WHERE tenant = e.tenant AND turn_id = e.turn_id LIMIT 1) known ON true
    WHERE known.here IS NULL),
s AS (
    INSERT INTO sessions AS old (tenant, session_id, agent_id, user_id, status, config_hash, greeting, turn_seq, active, message_count,
        created_at, updated_at, transferred_at)
    SELECT tenant, session_id, (array_agg(agent_id ORDER BY ord))[1],
        (array_agg(user_id ORDER BY ord) FILTER (WHERE user_id IS NOT NULL))[1],
        COALESCE((array_agg(status ORDER BY ord DESC) FILTER (WHERE status <> ''))[1], 'ready'),
        (array_agg(config_hash ORDER BY ord DESC))[1],
        COALESCE((array_agg(greeting ORDER BY ord DESC) FILTER (WHERE greeting <> ''))[1], ''),
        count(*), 0, 2 * count(*), min(at), max(at),
        CASE WHEN (array_agg(status ORDER BY ord DESC) FILTER (WHERE status <> ''))[1] = 'transferred' THEN max(at) END
    FROM new GROUP BY tenant, session_id ORDER BY tenant, session_id
    ON CONFLICT (tenant, session_id) DO UPDATE SET
        turn_seq = old.turn_seq + excluded.turn_seq, message_count = old.message_count + excluded.message_count,
        status = CASE WHEN excluded.status = 'ready' THEN old.status ELSE excluded.status END,
        transferred_at = CASE excluded.status WHEN 'ready' THEN old.transferred_at
            WHEN 'transferred' THEN COALESCE(old.transferred_at, excluded.transferred_at) END,
        greeting = COALESCE(NULLIF(excluded.greeting, ''), old.greeting), user_id = COALESCE(old.user_id, excluded.user_id),
        config_hash = excluded.config_hash, updated_at = GREATEST(old.updated_at, excluded.updated_at)
    RETURNING tenant, session_id, turn_seq),
placed AS (SELECT new.*, s.turn_seq - total + n AS seq FROM new JOIN s USING (tenant, session_id)),
t AS (
    INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
    SELECT tenant, session_id, seq, turn_id, agent_id, 'done', config_hash, request, reply, began, began, at FROM placed),
m AS (
    INSERT INTO messages
    SELECT tenant, session_id, seq, idx, turn_id, content, at
    FROM placed, LATERAL (VALUES (0, question), (1, answer)) AS pair (idx, content)),
a AS (
    INSERT INTO timers SELECT tenant, session_id, kind, agent_id, timer_id, position, seq, at + delay, at + delay
    FROM placed JOIN unnest($15::text[], $16::text[], $17::text[], $18::int[], $19::float8[])
        AS timer (agent_id, kind, timer_id, position, delay) USING (agent_id)
    WHERE n = total ORDER BY tenant, session_id
    {ARM_CONFLICT})
SELECT count(*) AS n FROM new
"""


MOVERS = 10  # times that others may have been faster: each has stored at least one of the turns then


async def record(database: Runner, entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer]) -> int:
    """Stores rule-answered turns and arms the timers of their agents; how many turns were new."""
    columns = [list(c) for c in zip(*rule_rows(entries), strict=True)]
    sessions = [list(c) for c in zip(*sorted({(e.tenant, e.session_id) for e in entries}), strict=True)]
    armed = [(agent_id, *timer_values([timer])[0]) for agent_id, timer in timers.items()]
    of_agents = [list(c) for c in zip(*armed, strict=True)] or [[]] * 5

    async def store(connection: Any) -> int:
        if len(sessions[0]) == 1:  # begun anew sooner than locked
            return int((await connection.fetchrow(RECORD, *columns, *of_agents))["n"])
        async with connection.transaction():
            await connection.fetchval(LOCK, *sessions)
            return int((await connection.fetchrow(RECORD, *columns, *of_agents))["n"])

    for _ in range(MOVERS):
        try:
            return await database.run(store)
        except asyncpg.UniqueViolationError:  # another mover stored one of them meanwhile: now it is visible and skipped
            continue
    raise DatabaseUnavailable("other processes are moving the same turns", retry_after=1.0)
