"""Sessions and their messages on SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from heavy.storage.rows import (
    Row,
    event_of,
    event_values,
    message_json,
    session_of,
    stored_message_of,
    timer_values,
    to_json,
)
from heavy.storage.sqlite.batches import erase_tasks
from heavy.storage.sqlite.outbox import add_messages_of_session
from heavy.turns.rows import ArmTimer, Note, SessionEvent, SessionRow, SoughtSessions, StoredEvent, StoredMessage

T = TypeVar("T")

GET = "SELECT * FROM sessions WHERE tenant = ? AND session_id = ?"

# The turn of the message that is `limit` from the end is the first one shown, and is shown whole.
MESSAGES = """
SELECT * FROM messages
WHERE tenant = ?1 AND session_id = ?2 AND turn_seq < ?3 AND turn_seq >= COALESCE((
    SELECT turn_seq FROM messages WHERE tenant = ?1 AND session_id = ?2 AND turn_seq < ?3
    ORDER BY turn_seq DESC, idx DESC LIMIT 1 OFFSET ?4 - 1), 0)
ORDER BY turn_seq, idx
"""

MAX_SEQ = 2**62

INSERT_MESSAGE = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

NOTE = """
UPDATE sessions SET status = COALESCE(?3, status), handoff = COALESCE(?4, handoff), updated_at = ?5,
    transferred_at = CASE WHEN COALESCE(?3, status) = 'transferred' THEN COALESCE(transferred_at, ?5) END,
    event_seq = event_seq + ?6, turn_seq = turn_seq + min(?7, 1), message_count = message_count + ?7
WHERE tenant = ?1 AND session_id = ?2 RETURNING *
"""

NOTED = "SELECT session_id FROM turns WHERE tenant = ? AND turn_id = ?"

NOTE_TURN = """
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
VALUES (?1, ?2, ?3, ?4, ?5, 'done', ?6, ?7, ?8, ?9, ?9, ?9)
"""

INSERT_EVENT = "INSERT INTO session_events VALUES (?, ?, ?, ?, ?, ?)"

EVENTS = "SELECT * FROM session_events WHERE tenant = ? AND session_id = ? AND id > ? ORDER BY id LIMIT ?"

# A turn that was resumed may end after a later one: then the later one's timer stays.
ARM = """
INSERT INTO timers (tenant, session_id, agent_id, seq, kind, timer_id, position, due_at, next_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
ON CONFLICT (tenant, session_id, kind) DO UPDATE SET agent_id = excluded.agent_id, timer_id = excluded.timer_id,
    position = excluded.position, seq = excluded.seq, due_at = excluded.due_at, next_at = excluded.next_at
WHERE timers.seq <= excluded.seq
"""

TRANSFERRED = "SELECT * FROM sessions WHERE tenant = ? AND transferred_at IS NOT NULL ORDER BY transferred_at, session_id LIMIT ?"

PAGE = """
SELECT * FROM sessions
WHERE tenant = ?1 AND (?2 IS NULL OR user_id = ?2) AND (?3 IS NULL OR agent_id = ?3) AND (?4 IS NULL OR status = ?4)
    AND created_at >= ?5 AND created_at < ?6 AND (created_at, session_id) < (?7, ?8)
ORDER BY created_at DESC, session_id DESC LIMIT ?9
"""
# Before it stands every session.
LAST = (1e12, "")


class Run(Protocol):
    """Runs work in a database thread."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """The result of `work`; for the writer, once it is committed."""


IDLE = "SELECT 1 FROM sessions WHERE tenant = ? AND session_id = ? AND updated_at < ? AND active = 0"

# What a call has cost stays in the ledger; whose it was does not.
FORGET_CALLS = "UPDATE llm_calls SET session_id = NULL, turn_id = NULL WHERE tenant = ? AND session_id = ?"


class SqliteSessions:
    """SessionStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def get(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session, None when there is none for this tenant."""
        row = await self._read(lambda c: c.execute(GET, (tenant, session_id)).fetchone())
        return session_of(row) if row else None

    async def count(self) -> int:
        """Sessions of all tenants."""
        row = await self._read(lambda c: c.execute("SELECT count(*) FROM sessions").fetchone())
        return int(row[0])

    async def messages(self, tenant: str, session_id: str, *, limit: int, before_seq: int | None = None) -> Sequence[StoredMessage]:
        """The last `limit` messages before a turn, oldest first, whole turns."""
        if limit < 1:
            return []
        args = (tenant, session_id, MAX_SEQ if before_seq is None else before_seq, limit)
        rows = await self._read(lambda c: c.execute(MESSAGES, args).fetchall())
        return [stored_message_of(r) for r in rows]

    async def delete(self, tenant: str, session_id: str, *, idle_since: float | None = None) -> bool:
        """Erases the session and everything of it."""

        def erase(c: sqlite3.Connection) -> bool:
            if idle_since is not None and c.execute(IDLE, (tenant, session_id, idle_since)).fetchone() is None:
                return False
            found = erase_tasks(c, tenant, session_id)
            found += c.execute("DELETE FROM sessions WHERE tenant = ? AND session_id = ?", (tenant, session_id)).rowcount
            for table in ("turns", "messages", "turn_aliases", "session_events", "timers", "deliveries"):
                c.execute(f"DELETE FROM {table} WHERE tenant = ? AND session_id = ?", (tenant, session_id))
            c.execute(FORGET_CALLS, (tenant, session_id))
            return found > 0

        return await self._write(erase)

    async def note(self, note: Note) -> SessionRow | None:
        """Applies a note; None when it does not hold."""
        place = (note.tenant, note.session_id)
        before, handoff, request, reply = map(to_json, (note.before, note.handoff, note.request, note.reply))
        contents = [message_json(m) for m in note.messages]

        def apply(c: sqlite3.Connection) -> Any:
            found = c.execute(GET, place).fetchone()
            noted = c.execute(NOTED, (note.tenant, note.turn_id)).fetchone() if contents else None
            if found is None or noted is not None:
                return found if noted is not None and noted["session_id"] == note.session_id else None
            if (note.statuses and found["status"] not in note.statuses) or before not in (None, found["handoff"]):
                return None
            now = time.time()
            row = one(c, NOTE, (*place, note.session_status, handoff, now, len(note.events), len(contents)))
            if contents:
                agent = (row["agent_id"], row["config_hash"])
                c.execute(NOTE_TURN, (*place, row["turn_seq"], note.turn_id, *agent, request, reply, now))
                c.executemany(INSERT_MESSAGE, [(*place, row["turn_seq"], i, note.turn_id, m, now) for i, m in enumerate(contents)])
            append_events(c, row, note.events)
            return row

        row = await self._write(apply)
        return session_of(row) if row else None

    async def events(self, tenant: str, session_id: str, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """The events with ids above `after`, oldest first."""
        rows = await self._read(lambda c: c.execute(EVENTS, (tenant, session_id, after, limit)).fetchall())
        return [event_of(r) for r in rows]

    async def page(
        self, tenant: str, sought: SoughtSessions, *, before: tuple[float, str] | None = None, limit: int
    ) -> Sequence[SessionRow]:
        """Sessions, those that began last first."""
        values = (tenant, sought.user_id, sought.agent_id, sought.status, sought.since, sought.until, *(before or LAST), limit)
        return [session_of(r) for r in await self._read(lambda c: c.execute(PAGE, values).fetchall())]

    async def transferred(self, tenant: str, *, limit: int) -> Sequence[SessionRow]:
        """Sessions that are with a human or wait for one, the longest waiting first."""
        return [session_of(r) for r in await self._read(lambda c: c.execute(TRANSFERRED, (tenant, limit)).fetchall())]


def one(c: sqlite3.Connection, statement: str, args: Any) -> Any:
    """The only row of a statement with RETURNING. All of it is fetched: a half-read one would keep the transaction from committing."""
    rows = c.execute(statement, args).fetchall()
    return rows[0] if rows else None


def append_events(c: sqlite3.Connection, session: Row, events: Sequence[SessionEvent]) -> None:
    """Stores events of a session whose event_seq counts them already, and their messages to webhooks."""
    place, first, at = (session["tenant"], session["session_id"]), session["event_seq"] - len(events) + 1, session["updated_at"]
    values = event_values(events)
    c.executemany(INSERT_EVENT, [(*place, first + i, *event, at) for i, event in enumerate(values)])
    add_messages_of_session(c, *place, values, at)


def arm(c: sqlite3.Connection, session: Any, timers: Sequence[ArmTimer], seq: int, now: float) -> None:
    """Arms timers of a session (anything with its tenant, session_id and agent_id) for the turn `seq`, as from `now`."""
    place = (session["tenant"], session["session_id"], session["agent_id"], seq)
    c.executemany(ARM, [(*place, kind, timer_id, position, now + delay) for kind, timer_id, position, delay in timer_values(timers)])
