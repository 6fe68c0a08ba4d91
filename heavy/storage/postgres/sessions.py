"""Sessions and their messages on PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import asyncpg

from heavy.storage.postgres.task_statements import EMPTY_ITEMS, ERASE, ERASE_ITEMS
from heavy.storage.postgres.turn_statements import append_events
from heavy.storage.rows import event_of, event_values, message_json, session_of, stored_message_of, to_json
from heavy.turns.rows import Note, SessionRow, SoughtSessions, StoredEvent, StoredMessage

T = TypeVar("T")

GET = "SELECT * FROM sessions WHERE tenant = $1 AND session_id = $2"

# Counting reads the whole table, so past a hundred thousand rows the planner's estimate has to do.
COUNT = """
SELECT CASE WHEN reltuples > 100000 THEN reltuples::bigint ELSE (SELECT count(*) FROM sessions) END AS n
FROM pg_class WHERE oid = 'sessions'::regclass
"""

# The turn of the message that is `limit` from the end is the first one shown, and is shown whole.
MESSAGES = """
SELECT * FROM messages
WHERE tenant = $1 AND session_id = $2 AND turn_seq < $3 AND turn_seq >= COALESCE((
    SELECT turn_seq FROM messages WHERE tenant = $1 AND session_id = $2 AND turn_seq < $3
    ORDER BY turn_seq DESC, idx DESC OFFSET $4 - 1 LIMIT 1), 0)
ORDER BY turn_seq, idx
"""

MAX_SEQ = 2**62


# $1 tenant, $2 session, $3 statuses, $4 hand-off before, $5 status, $6 hand-off, $7 event types, $8 their data, then the turn, if there
# are messages: $9 its id, $10 messages, $11 request, $12 reply
NOTE = f"""
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
s AS (
    UPDATE sessions s SET status = COALESCE($5, status), handoff = COALESCE($6, handoff), updated_at = now,
        transferred_at = CASE WHEN COALESCE($5, status) = 'transferred' THEN COALESCE(transferred_at, now) END,
        event_seq = event_seq + cardinality($7::text[]),
        turn_seq = turn_seq + LEAST(cardinality($10::text[]), 1), message_count = message_count + cardinality($10::text[])
    FROM clock WHERE tenant = $1 AND session_id = $2
        AND (cardinality($3::text[]) = 0 OR status = ANY($3)) AND ($4::text IS NULL OR handoff = $4)
        AND (cardinality($10::text[]) = 0 OR NOT EXISTS (SELECT 1 FROM turns WHERE tenant = $1 AND turn_id = $9))
    RETURNING s.*),
{append_events(7).strip()},
t AS (
    INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
    SELECT $1, $2, turn_seq, $9, agent_id, 'done', config_hash, $11, $12, updated_at, updated_at, updated_at
    FROM s WHERE cardinality($10::text[]) > 0),
m AS (
    INSERT INTO messages SELECT $1, $2, turn_seq, i - 1, $9, content, updated_at
    FROM s, unnest($10::text[]) WITH ORDINALITY AS new (content, i))
SELECT * FROM s
"""

# Has this been noted? By its turn, or, when a connection broke, by the hand-off that it wrote.
NOTED_TURN = (
    "SELECT s.* FROM sessions s JOIN turns t USING (tenant, session_id) WHERE t.tenant = $1 AND s.session_id = $2 AND t.turn_id = $3"
)
NOTED_HANDOFF = "SELECT * FROM sessions WHERE tenant = $1 AND session_id = $2 AND handoff = $3"

EVENTS = "SELECT * FROM session_events WHERE tenant = $1 AND session_id = $2 AND id > $3 ORDER BY id LIMIT $4"

TRANSFERRED = """
SELECT * FROM sessions WHERE tenant = $1 AND transferred_at IS NOT NULL ORDER BY transferred_at, session_id LIMIT $2
"""

PAGE = """
SELECT * FROM sessions
WHERE tenant = $1 AND ($2::text IS NULL OR user_id = $2) AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR status = $4)
    AND created_at >= $5 AND created_at < $6 AND (created_at, session_id) < ($7, $8)
ORDER BY created_at DESC, session_id DESC LIMIT $9
"""
# Before it stands every session.
LAST = (1e12, "")

IDLE = "SELECT 1 FROM sessions WHERE tenant = $1 AND session_id = $2 AND updated_at < $3 AND active = 0 FOR UPDATE"

# What a call has cost stays in the ledger; whose it was does not.
FORGET_CALLS = "UPDATE llm_calls SET session_id = NULL, turn_id = NULL WHERE tenant = $1 AND session_id = $2"


class Runner(Protocol):
    """What the stores need of the database."""

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        """All rows."""

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        """The first row or None."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs work that may be repeated with a connection."""


def either(write: Sequence[Any], check: Sequence[Any]) -> Callable[[Any], Awaitable[Any]]:
    """Work that runs a statement which changes nothing the second time. Only when it was repeated (the connection broke: was that
    before the commit or behind it?) and finds nothing to do, the row that `check` finds stands in. Both are statement and arguments."""
    tries = 0

    async def work(connection: Any) -> Any:
        nonlocal tries
        tries += 1
        row = await connection.fetchrow(*write)
        if row is None and tries > 1:
            row = await connection.fetchrow(*check)
        return row

    return work


async def erase_tasks(connection: Any, tenant: str, session_id: str) -> bool:
    """Erases the tasks of a session, within a transaction; whether there were any."""
    place = (tenant, session_id)
    erased = await connection.execute(ERASE, *place)
    await connection.execute(ERASE_ITEMS, *place)
    return bool((erased, await connection.execute(EMPTY_ITEMS, *place)) != ("DELETE 0", "UPDATE 0"))


class PostgresSessions:
    """SessionStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def get(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session, None when there is none for this tenant."""
        row = await self._database.fetchrow(GET, tenant, session_id)
        return session_of(row) if row else None

    async def count(self) -> int:
        """Sessions of all tenants, an estimate past 100 000."""
        row = await self._database.fetchrow(COUNT)
        return int(row["n"])

    async def messages(self, tenant: str, session_id: str, *, limit: int, before_seq: int | None = None) -> Sequence[StoredMessage]:
        """The last `limit` messages before a turn, oldest first, whole turns."""
        if limit < 1:
            return []
        rows = await self._database.fetch(MESSAGES, tenant, session_id, MAX_SEQ if before_seq is None else before_seq, limit)
        return [stored_message_of(r) for r in rows]

    async def delete(self, tenant: str, session_id: str, *, idle_since: float | None = None) -> bool:
        """Erases the session and everything of it."""

        async def erase(connection: Any) -> bool:
            async with connection.transaction():
                if idle_since is not None and await connection.fetchrow(IDLE, tenant, session_id, idle_since) is None:
                    return False
                tasks = await erase_tasks(connection, tenant, session_id)
                # Turns are locked before their session, as `finish` does it; an accept that slips between is seen by the later deletes.
                await connection.execute("SELECT 1 FROM turns WHERE tenant = $1 AND session_id = $2 FOR UPDATE", tenant, session_id)
                status = await connection.execute("DELETE FROM sessions WHERE tenant = $1 AND session_id = $2", tenant, session_id)
                for table in ("turns", "messages", "turn_aliases", "session_events", "timers", "deliveries"):
                    await connection.execute(f"DELETE FROM {table} WHERE tenant = $1 AND session_id = $2", tenant, session_id)
                await connection.execute(FORGET_CALLS, tenant, session_id)
                return bool(tasks or status != "DELETE 0")

        return await self._database.run(erase)

    async def note(self, note: Note) -> SessionRow | None:
        """Applies a note; None when it does not hold."""
        place, handoff = (note.tenant, note.session_id), to_json(note.handoff)
        events = event_values(note.events)
        values = (
            *place, list(note.statuses), to_json(note.before), note.session_status, handoff, [e[0] for e in events], [e[1] for e in events],
            note.turn_id, [message_json(m) for m in note.messages], to_json(note.request), to_json(note.reply),
        )  # fmt: skip
        try:
            row = await self._database.run(either((NOTE, *values), (NOTED_HANDOFF, *place, handoff)))
        except asyncpg.UniqueViolationError:  # the same turn id came twice at once
            row = None
        if row is None and note.messages:
            row = await self._database.fetchrow(NOTED_TURN, *place, note.turn_id)
        return session_of(row) if row else None

    async def events(self, tenant: str, session_id: str, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """The events with ids above `after`, oldest first."""
        return [event_of(r) for r in await self._database.fetch(EVENTS, tenant, session_id, after, limit)]

    async def page(
        self, tenant: str, sought: SoughtSessions, *, before: tuple[float, str] | None = None, limit: int
    ) -> Sequence[SessionRow]:
        """Sessions, those that began last first."""
        values = (tenant, sought.user_id, sought.agent_id, sought.status, sought.since, sought.until, *(before or LAST), limit)
        return [session_of(r) for r in await self._database.fetch(PAGE, *values)]

    async def transferred(self, tenant: str, *, limit: int) -> Sequence[SessionRow]:
        """Sessions that are with a human or wait for one, the longest waiting first."""
        return [session_of(r) for r in await self._database.fetch(TRANSFERRED, tenant, limit)]
