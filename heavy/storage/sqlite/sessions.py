"""Sessions and their messages on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from heavy.storage.rows import session_of, stored_message_of
from heavy.turns.stores import SessionRow, StoredMessage

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


class Run(Protocol):
    """Runs work in a database thread."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """The result of `work`; for the writer, once it is committed."""


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

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Erases the session, its turns and messages."""

        def erase(c: sqlite3.Connection) -> bool:
            found = c.execute("DELETE FROM sessions WHERE tenant = ? AND session_id = ?", (tenant, session_id)).rowcount
            c.execute("DELETE FROM turns WHERE tenant = ? AND session_id = ?", (tenant, session_id))
            c.execute("DELETE FROM messages WHERE tenant = ? AND session_id = ?", (tenant, session_id))
            return found > 0

        return await self._write(erase)
