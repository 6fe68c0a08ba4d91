"""The upkeep on SQLite: each step one short transaction of the writer."""

from __future__ import annotations

import sqlite3
import time

from heavy.jobs.upkeep import Page, Place, Progress, Purged, Sizes
from heavy.storage.rows import from_json, to_json
from heavy.storage.sqlite.sessions import Run, one
from heavy.storage.upkeep_rows import page_of

NAME = "purge"

BEGIN = """
INSERT INTO purges AS p (name, owner, lease_until, progress, started_at) VALUES (?1, ?2, ?3 + ?4, ?6, ?3)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until,
    progress = CASE WHEN p.finished_at IS NULL THEN p.progress ELSE excluded.progress END,
    started_at = CASE WHEN p.finished_at IS NULL THEN p.started_at ELSE excluded.started_at END, finished_at = NULL
WHERE CASE WHEN p.finished_at IS NULL THEN p.lease_until < ?3 OR p.owner = ?2 ELSE p.started_at <= ?3 - ?5 END
RETURNING progress
"""

SAVE = """
UPDATE purges SET progress = ?3, lease_until = ?4, finished_at = ?5 WHERE name = ?1 AND owner = ?2
    AND (finished_at IS NULL OR ?5 IS NOT NULL)
"""

LAST = "SELECT * FROM purges WHERE name = ?"

PAGE = """
SELECT tenant, session_id, active, created_at, updated_at FROM sessions WHERE (tenant, session_id) > (?, ?)
ORDER BY tenant, session_id LIMIT ?
"""

OLD_TURNS = """
SELECT t.seq, t.turn_id FROM turns t JOIN sessions s USING (tenant, session_id)
WHERE t.tenant = ? AND t.session_id = ? AND t.finished_at < ? AND t.seq < s.turn_seq
"""

_ENDED_BATCH = "NOT EXISTS (SELECT 1 FROM batches b WHERE b.tenant = k.tenant AND b.batch_id = k.batch_id AND b.open > 0)"
_UNUSED = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} x WHERE x.tenant = k.tenant AND x.webhook_id = k.webhook_id)"
    for table in ("tasks", "batches", "schedules", "deliveries")
)
RECORDS = (
    ("tasks", f"finished_at < ? AND {_ENDED_BATCH}"),
    ("batches", "finished_at < ? AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.tenant = k.tenant AND t.batch_id = k.batch_id)"),
    ("deliveries", "finished_at < ?"),
    ("webhooks", f"kind = 'request' AND created_at < ? AND {_UNUSED}"),
    ("llm_calls", "began < ?"),
)


class SqliteUpkeep:
    """UpkeepStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def begin(self, owner: str, *, every_seconds: float, lease_seconds: float) -> Progress | None:
        """Takes the purge, if it is due."""
        new = to_json(Progress().as_json())
        row = await self._write(lambda c: one(c, BEGIN, (NAME, owner, time.time(), lease_seconds, every_seconds, new)))
        return Progress.of_json(from_json(row["progress"])) if row else None

    async def save(self, owner: str, progress: Progress, *, lease_seconds: float, finished: bool) -> bool:
        """Notes how far it has come."""
        document = to_json(progress.as_json())

        def save(c: sqlite3.Connection) -> bool:
            now = time.time()
            return c.execute(SAVE, (NAME, owner, document, now + lease_seconds, now if finished else None)).rowcount > 0

        return await self._write(save)

    async def last(self) -> Purged | None:
        """The last purge."""
        row = await self._read(lambda c: c.execute(LAST, (NAME,)).fetchone())
        return Purged(Progress.of_json(from_json(row["progress"])), row["started_at"], row["finished_at"]) if row else None

    async def page(self, after: Place, *, before: float, limit: int) -> Page:
        """The next sessions."""
        return page_of(await self._read(lambda c: c.execute(PAGE, (*after, limit)).fetchall()), before, limit)

    async def erase_turns(self, place: Place, *, before: float) -> int:
        """Erases old turns of a session."""

        def erase(c: sqlite3.Connection) -> int:
            turns = c.execute(OLD_TURNS, (*place, before)).fetchall()
            messages = 0
            for seq, turn_id in turns:
                messages += c.execute("DELETE FROM messages WHERE tenant = ? AND session_id = ? AND turn_seq = ?", (*place, seq)).rowcount
                c.execute("DELETE FROM turns WHERE tenant = ? AND session_id = ? AND seq = ?", (*place, seq))
                c.execute("DELETE FROM turn_aliases WHERE tenant = ? AND session_id = ? AND turn_id = ?", (*place, turn_id))
            c.execute("DELETE FROM session_events WHERE tenant = ? AND session_id = ? AND at < ?", (*place, before))
            counted = "UPDATE sessions SET message_count = message_count - ?3 WHERE tenant = ?1 AND session_id = ?2"
            c.execute(counted, (*place, messages))
            return len(turns)

        return await self._write(erase)

    async def erase_records(self, *, before: float, limit: int) -> int:
        """Erases what is over and told."""

        def erase(c: sqlite3.Connection) -> int:
            erased = 0
            for table, condition in RECORDS:
                found = f"SELECT rowid FROM {table} k WHERE {condition} LIMIT ?"
                erased += c.execute(f"DELETE FROM {table} WHERE rowid IN ({found})", (before, limit)).rowcount
            return erased

        return await self._write(erase)

    async def sizes(self) -> Sizes:
        """The size of the file; its tables would have to be read whole for more."""

        def size(c: sqlite3.Connection) -> int:
            return int(c.execute("PRAGMA page_count").fetchone()[0]) * int(c.execute("PRAGMA page_size").fetchone()[0])

        return Sizes({}, {"all": await self._read(size)})
