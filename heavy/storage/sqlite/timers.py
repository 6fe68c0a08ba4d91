"""Armed timers on SQLite: handing out those that are due, each to one caller. Turns arm them (sessions.arm)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from heavy.storage.rows import timer_of
from heavy.storage.sqlite.sessions import Run
from heavy.turns.rows import TimerRow

DUE = """
UPDATE timers SET next_at = ?1 + ?2
WHERE rowid IN (SELECT rowid FROM timers WHERE next_at <= ?1 ORDER BY next_at LIMIT ?3) RETURNING *
"""

DONE = "DELETE FROM timers WHERE tenant = ? AND session_id = ? AND kind = ? AND seq = ? AND timer_id = ?"


class SqliteTimers:
    """TimerStore over SQLite."""

    def __init__(self, write: Run) -> None:
        self._write = write

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[TimerRow]:
        """Up to `limit` timers that are due, held for this caller, the longest overdue first."""

        def hold(c: sqlite3.Connection) -> list[Any]:
            return c.execute(DUE, (time.time(), hold_seconds, limit)).fetchall()

        return sorted(map(timer_of, await self._write(hold)), key=lambda t: t.due_at)

    async def done(self, timer: TimerRow) -> None:
        """Forgets a timer, unless it was armed anew since."""
        key = (timer.tenant, timer.session_id, timer.kind, timer.seq, timer.timer_id)
        await self._write(lambda c: c.execute(DONE, key).rowcount)
