"""Turns on SQLite: each step of a turn's life is one function that runs in the writer thread inside one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message
from heavy.storage.rows import (
    RULE_COLUMNS,
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
from heavy.storage.sqlite.sessions import GET as GET_SESSION
from heavy.storage.sqlite.sessions import Run
from heavy.turns.stores import Accepted, Fence, Finish, LeaseLost, NewTurn, SessionRow, StoredMessage, TurnRow

GET = "SELECT * FROM turns WHERE tenant = ? AND turn_id = ?"

UPSERT_SESSION = """
INSERT INTO sessions (tenant, session_id, agent_id, user_id, config_hash, turn_seq, active, message_count, created_at, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, 1, 1, 1, ?6, ?6)
ON CONFLICT (tenant, session_id) DO UPDATE SET
    turn_seq = turn_seq + 1, active = active + 1, message_count = message_count + 1,
    user_id = COALESCE(user_id, excluded.user_id), updated_at = excluded.updated_at
WHERE agent_id = excluded.agent_id
RETURNING *
"""

INSERT_TURN = """
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, config_hash, request, plan, created_at,
    started_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_MESSAGE = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

CLAIM = """
UPDATE turns AS t SET state = 'running', attempt = attempt + 1, owner = ?3, lease_until = ?4, started_at = COALESCE(started_at, ?5)
WHERE tenant = ?1 AND turn_id = ?2 AND state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM turns e WHERE e.tenant = t.tenant AND e.session_id = t.session_id AND e.seq < t.seq AND e.state IN ('waiting', 'running'))
RETURNING *
"""

TAKE_OVER = """
UPDATE turns SET state = 'running', attempt = attempt + 1, owner = ?1, lease_until = ?2, started_at = COALESCE(started_at, ?3)
WHERE rowid IN (
    SELECT c.rowid FROM turns c
    WHERE c.state IN ('waiting', 'running') AND c.lease_until < ?3 AND NOT EXISTS (
        SELECT 1 FROM turns e
        WHERE e.tenant = c.tenant AND e.session_id = c.session_id AND e.seq < c.seq AND e.state IN ('waiting', 'running'))
    ORDER BY c.lease_until LIMIT ?4)
RETURNING *
"""

RENEW = "UPDATE turns SET lease_until = ?3 WHERE owner = ?1 AND turn_id = ?2 AND state IN ('waiting', 'running')"

CANCEL_REQUESTS = "SELECT turn_id FROM turns WHERE owner = ? AND state = 'running' AND cancel_requested"

STEP = """
UPDATE turns SET llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq
"""

FINISH_TURN = """
UPDATE turns SET state = ?9, reply = ?10, error = ?11, finished_at = ?12,
    llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq
"""

FINISH_SESSION = """
UPDATE sessions SET active = active - 1, status = ?3, current_skill = ?4, updated_at = ?5,
    greeting = COALESCE(NULLIF(?6, ''), greeting), config_hash = COALESCE(NULLIF(?7, ''), config_hash), profile = COALESCE(?8, profile),
    message_count = message_count + ?9, llm_calls = llm_calls + ?10, input_tokens = input_tokens + ?11,
    cached_tokens = cached_tokens + ?12, output_tokens = output_tokens + ?13, cost_usd = cost_usd + ?14
WHERE tenant = ?1 AND session_id = ?2 RETURNING *
"""

CANCEL = """
UPDATE turns SET cancel_requested = 1, reply = CASE WHEN state = 'waiting' THEN ?3 ELSE reply END,
    finished_at = CASE WHEN state = 'waiting' THEN ?4 END, state = CASE WHEN state = 'waiting' THEN 'cancelled' ELSE state END
WHERE tenant = ?1 AND turn_id = ?2 AND state IN ('waiting', 'running') RETURNING *
"""

ONE_LESS = "UPDATE sessions SET active = active - 1, updated_at = ?3 WHERE tenant = ?1 AND session_id = ?2"

TURN_MESSAGES = """
SELECT m.* FROM messages m JOIN turns t ON m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq
WHERE t.tenant = ? AND t.turn_id = ? ORDER BY m.idx
"""

RULE_SESSION = """
INSERT INTO sessions (tenant, session_id, agent_id, user_id, status, config_hash, greeting, turn_seq, active, message_count, created_at,
    updated_at)
VALUES (:tenant, :session_id, :agent_id, :user_id, COALESCE(NULLIF(:status, ''), 'ready'), :config_hash, :greeting, 1, 0, 2, :at, :at)
ON CONFLICT (tenant, session_id) DO UPDATE SET
    turn_seq = turn_seq + 1, message_count = message_count + 2, status = COALESCE(NULLIF(:status, ''), status),
    greeting = COALESCE(NULLIF(:greeting, ''), greeting), user_id = COALESCE(user_id, excluded.user_id),
    config_hash = excluded.config_hash, updated_at = max(updated_at, excluded.updated_at)
RETURNING turn_seq
"""

RULE_TURN = """
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
VALUES (:tenant, :session_id, :seq, :turn_id, :agent_id, 'done', :config_hash, :request, :reply, :at, :at, :at)
"""


class SqliteTurns:
    """TurnStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates session, turn and message 0; `new_session` stays true when the first turn's accept is repeated."""
        request, plan = to_json(turn.request), to_json(turn.plan)
        content = message_json(Message("user", turn.user_message))
        key = (turn.tenant, turn.session_id)

        def accept(c: sqlite3.Connection) -> Accepted:
            known = c.execute(GET, (turn.tenant, turn.turn_id)).fetchone()
            if known:
                session = c.execute(GET_SESSION, (turn.tenant, known["session_id"])).fetchone()
                return Accepted(session_of(session), turn_of(known), new_session=known["seq"] == 1)
            row = _one(c, UPSERT_SESSION, (*key, turn.agent_id, text(turn.user_id), turn.config_hash, time.time()))
            if row is None:
                raise InvalidRequest("the session belongs to another agent", field="agent_id")
            accepted = accepted_of(row, turn, owner, lease_seconds)
            t = accepted.turn
            head = (*key, t.seq, t.turn_id, t.agent_id, t.state, t.attempt, owner, t.lease_until, t.config_hash)
            c.execute(INSERT_TURN, (*head, request, plan, t.created_at, t.started_at))
            c.execute(INSERT_MESSAGE, (*key, t.seq, 0, t.turn_id, content, t.created_at))
            return accepted

        return await self._write(accept)

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if it is the first active one of its session."""

        def claim(c: sqlite3.Connection) -> Any:
            now = time.time()
            return _one(c, CLAIM, (tenant, turn_id, owner, now + lease_seconds, now))

        row = await self._write(claim)
        return turn_of(row) if row else None

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims up to `limit` active turns whose lease has run out, the longest overdue first."""

        def take(c: sqlite3.Connection) -> list[Any]:
            now = time.time()
            return c.execute(TAKE_OVER, (owner, now + lease_seconds, now, limit)).fetchall()

        return [turn_of(r) for r in await self._write(take)]

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs leases; the ids of those that this owner still holds."""
        if not turn_ids:
            return []

        def renew(c: sqlite3.Connection) -> list[str]:
            until = time.time() + lease_seconds
            return [i for i in turn_ids if c.execute(RENEW, (owner, i, until)).rowcount]

        return await self._write(renew)

    async def cancel_requests(self, owner: str) -> Sequence[str]:
        """Running turns of this owner whose end was asked for."""
        return [r["turn_id"] for r in await self._read(lambda c: c.execute(CANCEL_REQUESTS, (owner,)).fetchall())]

    async def step(self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage) -> None:
        """Commits messages of a running turn. Raises LeaseLost."""
        contents = [message_json(m) for m in messages]

        def step(c: sqlite3.Connection) -> None:
            row = _one(c, STEP, (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage)))
            if row is None:
                raise LeaseLost
            _append(c, fence, row, first_idx, contents, time.time())

        await self._write(step)

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session. Raises LeaseLost."""
        contents = [message_json(m) for m in finish.messages]
        usage, reply, error, profile = usage_values(finish.usage), to_json(finish.reply), to_json(finish.error), to_json(finish.profile)

        def end(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = _one(c, FINISH_TURN, (fence.tenant, fence.turn_id, fence.attempt, *usage, finish.state, reply, error, now))
            if row is None:
                raise LeaseLost
            _append(c, fence, row, finish.first_idx, contents, now)
            became = (finish.session_status, text(finish.current_skill), now, finish.greeting, finish.config_hash, profile)
            more = finish.first_idx - 1 + len(contents)  # message 0 was counted when it was accepted
            return _one(c, FINISH_SESSION, (fence.tenant, row["session_id"], *became, more, *usage))

        return session_of(await self._write(end))

    async def cancel(self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None) -> TurnRow | None:
        """Cancels a waiting turn, asks the owner of a running one; the turn as it is afterwards."""
        text_of_reply = to_json(reply)

        def cancel(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = _one(c, CANCEL, (tenant, turn_id, text_of_reply, now))
            if row is not None and row["state"] == "cancelled":
                c.execute(ONE_LESS, (tenant, row["session_id"], now))
            return row or c.execute(GET, (tenant, turn_id)).fetchone()

        row = await self._write(cancel)
        return turn_of(row) if row else None

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""
        row = await self._read(lambda c: c.execute(GET, (tenant, turn_id)).fetchone())
        return turn_of(row) if row else None

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order."""
        return [stored_message_of(r) for r in await self._read(lambda c: c.execute(TURN_MESSAGES, (tenant, turn_id)).fetchall())]

    async def record_rule_turns(self, entries: Sequence[JournalEntry]) -> int:
        """Stores rule-answered turns; how many were new."""
        rows = [dict(zip(RULE_COLUMNS, values, strict=True)) for values in rule_rows(entries)]

        def record(c: sqlite3.Connection) -> int:
            new = 0
            for row in rows:
                if c.execute(GET, (row["tenant"], row["turn_id"])).fetchone():
                    continue
                new += 1
                row["seq"] = _one(c, RULE_SESSION, row)["turn_seq"]
                c.execute(RULE_TURN, row)
                place = (row["tenant"], row["session_id"], row["seq"])
                c.execute(INSERT_MESSAGE, (*place, 0, row["turn_id"], row["question"], row["at"]))
                c.execute(INSERT_MESSAGE, (*place, 1, row["turn_id"], row["answer"], row["at"]))
            return new

        return await self._write(record) if rows else 0


def _one(c: sqlite3.Connection, statement: str, args: Any) -> Any:
    """The only row of a statement with RETURNING. All of it is fetched: a half-read one would keep the transaction from committing."""
    rows = c.execute(statement, args).fetchall()
    return rows[0] if rows else None


def _append(c: sqlite3.Connection, fence: Fence, turn: Any, first_idx: int, contents: Sequence[str], now: float) -> None:
    place = (fence.tenant, turn["session_id"], turn["seq"])
    c.executemany(INSERT_MESSAGE, [(*place, first_idx + i, fence.turn_id, content, now) for i, content in enumerate(contents)])
