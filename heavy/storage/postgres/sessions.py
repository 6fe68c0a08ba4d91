"""Sessions and their messages on PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from heavy.storage.rows import session_of, stored_message_of
from heavy.turns.stores import SessionRow, StoredMessage

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


class Runner(Protocol):
    """What the stores need of the database."""

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        """All rows."""

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        """The first row or None."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs work that may be repeated with a connection."""


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

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Erases the session, its turns and messages."""

        async def erase(connection: Any) -> bool:
            async with connection.transaction():
                # Turns are locked before their session, as `finish` does it; an accept that slips between is seen by the later deletes.
                await connection.execute("SELECT 1 FROM turns WHERE tenant = $1 AND session_id = $2 FOR UPDATE", tenant, session_id)
                status = await connection.execute("DELETE FROM sessions WHERE tenant = $1 AND session_id = $2", tenant, session_id)
                await connection.execute("DELETE FROM turns WHERE tenant = $1 AND session_id = $2", tenant, session_id)
                await connection.execute("DELETE FROM messages WHERE tenant = $1 AND session_id = $2", tenant, session_id)
                return bool(status != "DELETE 0")

        return await self._database.run(erase)
