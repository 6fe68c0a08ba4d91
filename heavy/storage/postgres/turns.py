"""Turns on PostgreSQL: each step of a turn's life is one statement, so one round trip and one commit.

Why FIFO holds: `accept` raises the session's turn_seq, which locks its row until the commit; so when a turn is visible, every earlier
one of its session has been visible before, and the snapshot of a later `claim` shows all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message
from heavy.storage.postgres.sessions import GET as GET_SESSION
from heavy.storage.postgres.sessions import Runner
from heavy.storage.rows import (
    accepted_of,
    message_json,
    rule_rows,
    session_of,
    stored_message_of,
    text,
    to_json,
    turn_of,
    usage_values,
)
from heavy.turns.stores import Accepted, Fence, Finish, LeaseLost, NewTurn, SessionRow, StoredMessage, TurnRow

GET = "SELECT * FROM turns WHERE tenant = $1 AND turn_id = $2"

ACCEPT = """
WITH clock AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS now),
s AS (
    INSERT INTO sessions AS old (tenant, session_id, agent_id, user_id, config_hash, turn_seq, active, message_count,
        created_at, updated_at)
    SELECT $1, $2, $4, $5, $6, 1, 1, 1, now, now FROM clock
    WHERE NOT EXISTS (SELECT 1 FROM turns WHERE tenant = $1 AND turn_id = $3)
    ON CONFLICT (tenant, session_id) DO UPDATE SET
        turn_seq = old.turn_seq + 1, active = old.active + 1, message_count = old.message_count + 1,
        user_id = COALESCE(old.user_id, excluded.user_id), updated_at = excluded.updated_at
    WHERE old.agent_id = excluded.agent_id
    RETURNING *),
t AS (
    INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, config_hash, request, plan,
        created_at, started_at)
    SELECT $1, $2, turn_seq, $3, $4, CASE WHEN active = 1 THEN 'running' ELSE 'waiting' END, CASE WHEN active = 1 THEN 1 ELSE 0 END,
        $7, updated_at + $8, $6, $9, $10, updated_at, CASE WHEN active = 1 THEN updated_at END
    FROM s),
m AS (INSERT INTO messages SELECT $1, $2, turn_seq, 0, $3, $11, updated_at FROM s)
SELECT * FROM s
"""

CLAIM = """
UPDATE turns t SET state = 'running', attempt = attempt + 1, owner = $3,
    lease_until = extract(epoch FROM now())::float8 + $4, started_at = COALESCE(started_at, extract(epoch FROM now())::float8)
WHERE tenant = $1 AND turn_id = $2 AND state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM turns e WHERE e.tenant = t.tenant AND e.session_id = t.session_id AND e.seq < t.seq AND e.state IN ('waiting', 'running'))
RETURNING *
"""

TAKE_OVER = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
found AS (
    SELECT c.tenant, c.session_id, c.seq FROM turns c, clock
    WHERE c.state IN ('waiting', 'running') AND c.lease_until < now AND NOT EXISTS (
        SELECT 1 FROM turns e
        WHERE e.tenant = c.tenant AND e.session_id = c.session_id AND e.seq < c.seq AND e.state IN ('waiting', 'running'))
    ORDER BY c.lease_until LIMIT $3 FOR UPDATE OF c SKIP LOCKED)
UPDATE turns t SET state = 'running', attempt = attempt + 1, owner = $1, lease_until = now + $2, started_at = COALESCE(started_at, now)
FROM found f, clock WHERE t.tenant = f.tenant AND t.session_id = f.session_id AND t.seq = f.seq
RETURNING t.*
"""

RENEW = """
UPDATE turns SET lease_until = extract(epoch FROM now())::float8 + $3
WHERE owner = $1 AND turn_id = ANY($2::text[]) AND state IN ('waiting', 'running') RETURNING turn_id
"""

CANCEL_REQUESTS = "SELECT turn_id FROM turns WHERE owner = $1 AND state = 'running' AND cancel_requested"

# $1 tenant, $2 turn id, $3 attempt, $4-$8 usage, $9 first index, $10 messages
STEP = """
WITH t AS (
    UPDATE turns SET llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8
    WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq),
m AS (
    INSERT INTO messages SELECT $1, t.session_id, t.seq, $9 + i - 1, $2, content, extract(epoch FROM now())::float8
    FROM t, unnest($10::text[]) WITH ORDINALITY AS new (content, i) ON CONFLICT DO NOTHING)
SELECT 1 FROM t
"""

# As STEP, then $11 state, $12 reply, $13 error, $14 status, $15 skill, $16 greeting, $17 config hash, $18 profile
FINISH = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET state = $11, reply = $12, error = $13, finished_at = now,
        llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq),
m AS (
    INSERT INTO messages SELECT $1, t.session_id, t.seq, $9 + i - 1, $2, content, now
    FROM clock, t, unnest($10::text[]) WITH ORDINALITY AS new (content, i) ON CONFLICT DO NOTHING)
UPDATE sessions s SET active = active - 1, status = $14, current_skill = $15, updated_at = now,
    greeting = COALESCE(NULLIF($16, ''), greeting), config_hash = COALESCE(NULLIF($17, ''), config_hash),
    profile = COALESCE($18, profile), message_count = message_count + $9 - 1 + cardinality($10::text[]),
    llm_calls = llm_calls + $4, input_tokens = input_tokens + $5, cached_tokens = cached_tokens + $6,
    output_tokens = output_tokens + $7, cost_usd = cost_usd + $8
FROM clock, t WHERE s.tenant = $1 AND s.session_id = t.session_id RETURNING s.*
"""

CANCEL = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET cancel_requested = true, reply = CASE WHEN state = 'waiting' THEN $3 ELSE reply END,
        finished_at = CASE WHEN state = 'waiting' THEN now END, state = CASE WHEN state = 'waiting' THEN 'cancelled' ELSE state END
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND state IN ('waiting', 'running') RETURNING turns.*),
s AS (
    UPDATE sessions SET active = active - 1, updated_at = now
    FROM clock, t WHERE t.state = 'cancelled' AND sessions.tenant = t.tenant AND sessions.session_id = t.session_id)
SELECT * FROM t
"""

TURN_MESSAGES = """
SELECT m.* FROM messages m JOIN turns t ON m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq
WHERE t.tenant = $1 AND t.turn_id = $2 ORDER BY m.idx
"""

# Arrays in the order of rows.RULE_COLUMNS. Sessions are locked in key order, so two movers can't lock each other out.
RECORD = """
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::float8[]) WITH ORDINALITY
        AS e (tenant, session_id, turn_id, agent_id, user_id, status, config_hash, greeting, request, reply, question, answer, at, ord)),
new AS (
    SELECT e.*, row_number() OVER (PARTITION BY tenant, session_id ORDER BY ord) AS n,
        count(*) OVER (PARTITION BY tenant, session_id) AS total
    FROM input e WHERE NOT EXISTS (SELECT 1 FROM turns t WHERE t.tenant = e.tenant AND t.turn_id = e.turn_id)),
s AS (
    INSERT INTO sessions AS old (tenant, session_id, agent_id, user_id, status, config_hash, greeting, turn_seq, active, message_count,
        created_at, updated_at)
    SELECT tenant, session_id, (array_agg(agent_id ORDER BY ord))[1],
        (array_agg(user_id ORDER BY ord) FILTER (WHERE user_id IS NOT NULL))[1],
        COALESCE((array_agg(status ORDER BY ord DESC) FILTER (WHERE status <> ''))[1], 'ready'),
        (array_agg(config_hash ORDER BY ord DESC))[1],
        COALESCE((array_agg(greeting ORDER BY ord DESC) FILTER (WHERE greeting <> ''))[1], ''),
        count(*), 0, 2 * count(*), min(at), max(at)
    FROM new GROUP BY tenant, session_id ORDER BY tenant, session_id
    ON CONFLICT (tenant, session_id) DO UPDATE SET
        turn_seq = old.turn_seq + excluded.turn_seq, message_count = old.message_count + excluded.message_count,
        status = CASE WHEN excluded.status = 'ready' THEN old.status ELSE excluded.status END,
        greeting = COALESCE(NULLIF(excluded.greeting, ''), old.greeting), user_id = COALESCE(old.user_id, excluded.user_id),
        config_hash = excluded.config_hash, updated_at = GREATEST(old.updated_at, excluded.updated_at)
    RETURNING tenant, session_id, turn_seq),
placed AS (SELECT new.*, s.turn_seq - total + n AS seq FROM new JOIN s USING (tenant, session_id)),
t AS (
    INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
    SELECT tenant, session_id, seq, turn_id, agent_id, 'done', config_hash, request, reply, at, at, at FROM placed),
m AS (
    INSERT INTO messages
    SELECT tenant, session_id, seq, idx, turn_id, content, at
    FROM placed, LATERAL (VALUES (0, question), (1, answer)) AS pair (idx, content))
SELECT count(*) AS n FROM new
"""


class PostgresTurns:
    """TurnStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates session, turn and message 0; `new_session` stays true when the first turn's accept is repeated."""
        content = message_json(Message("user", turn.user_message))
        try:
            row = await self._database.fetchrow(
                ACCEPT, turn.tenant, turn.session_id, turn.turn_id, turn.agent_id, text(turn.user_id), turn.config_hash,
                owner, lease_seconds, to_json(turn.request), to_json(turn.plan), content,
            )  # fmt: skip
        except asyncpg.UniqueViolationError:  # the same turn id came twice at once
            row = None
        if row:
            return accepted_of(row, turn, owner, lease_seconds)
        known = await self.get(turn.tenant, turn.turn_id)
        session = await self._database.fetchrow(GET_SESSION, turn.tenant, known.session_id if known else turn.session_id)
        if known is None or session is None:
            raise InvalidRequest("the session belongs to another agent", field="agent_id")
        return Accepted(session_of(session), known, new_session=known.seq == 1)

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if it is the first active one of its session."""
        row = await self._database.fetchrow(CLAIM, tenant, turn_id, owner, lease_seconds)
        return turn_of(row) if row else None

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims up to `limit` active turns whose lease has run out, the longest overdue first."""
        return [turn_of(r) for r in await self._database.fetch(TAKE_OVER, owner, lease_seconds, limit)]

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs leases; the ids of those that this owner still holds."""
        if not turn_ids:
            return []
        return [r["turn_id"] for r in await self._database.fetch(RENEW, owner, list(turn_ids), lease_seconds)]

    async def cancel_requests(self, owner: str) -> Sequence[str]:
        """Running turns of this owner whose end was asked for."""
        return [r["turn_id"] for r in await self._database.fetch(CANCEL_REQUESTS, owner)]

    async def step(self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage) -> None:
        """Commits messages of a running turn. Raises LeaseLost."""
        if not await self._database.fetchrow(STEP, *_fenced(fence, usage, first_idx, messages)):
            raise LeaseLost

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session. Raises LeaseLost."""
        tries = 0

        async def end(connection: Any) -> Any:
            nonlocal tries
            tries += 1
            row = await connection.fetchrow(
                FINISH, *_fenced(fence, finish.usage, finish.first_idx, finish.messages), finish.state, to_json(finish.reply),
                to_json(finish.error), finish.session_status, text(finish.current_skill), finish.greeting, finish.config_hash,
                to_json(finish.profile),
            )  # fmt: skip
            if row is None and tries > 1:  # the connection broke: was it after the commit?
                row = await connection.fetchrow(
                    "SELECT s.* FROM sessions s JOIN turns t USING (tenant, session_id) "
                    "WHERE t.tenant = $1 AND t.turn_id = $2 AND t.attempt = $3 AND t.state = $4",
                    fence.tenant, fence.turn_id, fence.attempt, finish.state,
                )  # fmt: skip
            return row

        row = await self._database.run(end)
        if row is None:
            raise LeaseLost
        return session_of(row)

    async def cancel(self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None) -> TurnRow | None:
        """Cancels a waiting turn, asks the owner of a running one; the turn as it is afterwards."""
        row = await self._database.fetchrow(CANCEL, tenant, turn_id, to_json(reply))
        return turn_of(row) if row else await self.get(tenant, turn_id)

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""
        row = await self._database.fetchrow(GET, tenant, turn_id)
        return turn_of(row) if row else None

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order."""
        return [stored_message_of(r) for r in await self._database.fetch(TURN_MESSAGES, tenant, turn_id)]

    async def record_rule_turns(self, entries: Sequence[JournalEntry]) -> int:
        """Stores rule-answered turns; how many were new."""
        if not entries:
            return 0
        columns = [list(c) for c in zip(*rule_rows(entries), strict=True)]
        try:
            row = await self._database.fetchrow(RECORD, *columns)
        except asyncpg.UniqueViolationError:  # another mover stored one of them meanwhile: now it is visible and skipped
            row = await self._database.fetchrow(RECORD, *columns)
        return int(row["n"])


def _fenced(fence: Fence, usage: Usage, first_idx: int, messages: Sequence[Message]) -> tuple[Any, ...]:
    return (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage), first_idx, [message_json(m) for m in messages])
