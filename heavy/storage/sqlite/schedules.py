"""Cron schedules on SQLite. A tick is taken and its task stored in one transaction, by whoever finds the tick still to come."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from heavy.jobs.rows import NewSchedule, NewTask, ScheduleRow
from heavy.storage.sqlite.sessions import Run, one
from heavy.storage.sqlite.tasks import insert
from heavy.storage.task_rows import new_values, schedule_of, schedule_values

GET = "SELECT * FROM schedules WHERE tenant = ? AND schedule_id = ?"

CREATE = """
INSERT INTO schedules (tenant, schedule_id, cron, timezone, session_id, agent_id, request, max_attempts, webhook_id, webhook_events,
    enabled, next_at, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?) RETURNING *
"""

PAGE = """
SELECT * FROM schedules WHERE tenant = ?1 AND (?2 IS NULL OR (created_at, schedule_id) < (?2, ?3))
ORDER BY created_at DESC, schedule_id DESC LIMIT ?4
"""

ENABLE = "UPDATE schedules SET enabled = ?3, next_at = COALESCE(?4, next_at) WHERE tenant = ?1 AND schedule_id = ?2 RETURNING *"
DELETE = "DELETE FROM schedules WHERE tenant = ? AND schedule_id = ?"
DUE = "SELECT * FROM schedules WHERE enabled AND next_at <= ? ORDER BY next_at LIMIT ?"

ADVANCE = """
UPDATE schedules SET next_at = ?4, last_at = CASE WHEN ?5 THEN ?3 ELSE last_at END
WHERE tenant = ?1 AND schedule_id = ?2 AND next_at = ?3 AND enabled
"""


class SqliteSchedules:
    """ScheduleStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def create(self, schedule: NewSchedule) -> ScheduleRow:
        """Stores a schedule, enabled."""
        values = (*schedule_values(schedule), schedule.next_at)
        return schedule_of(await self._write(lambda c: one(c, CREATE, (*values, time.time()))))

    async def get(self, tenant: str, schedule_id: str) -> ScheduleRow | None:
        """The schedule, None when unknown to this tenant."""
        row = await self._read(lambda c: c.execute(GET, (tenant, schedule_id)).fetchone())
        return schedule_of(row) if row else None

    async def page(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[ScheduleRow]:
        """Schedules, the newest first."""
        args = (tenant, *(before or (None, None)), limit)
        return [schedule_of(r) for r in await self._read(lambda c: c.execute(PAGE, args).fetchall())]

    async def enable(self, tenant: str, schedule_id: str, *, enabled: bool, next_at: float | None = None) -> ScheduleRow | None:
        """Switches a schedule on or off."""
        row = await self._write(lambda c: one(c, ENABLE, (tenant, schedule_id, enabled, next_at)))
        return schedule_of(row) if row else None

    async def delete(self, tenant: str, schedule_id: str) -> bool:
        """Erases a schedule."""
        return await self._write(lambda c: c.execute(DELETE, (tenant, schedule_id)).rowcount) == 1

    async def due(self, *, limit: int) -> tuple[float, Sequence[ScheduleRow]]:
        """The time and the schedules whose tick has come."""

        def look(c: sqlite3.Connection) -> tuple[float, list[Any]]:
            now = time.time()
            return now, c.execute(DUE, (now, limit)).fetchall()

        now, rows = await self._read(look)
        return now, [schedule_of(r) for r in rows]

    async def advance(self, schedule: ScheduleRow, next_at: float, task: NewTask | None) -> bool:
        """Takes a tick, if it is still to come."""
        values = (schedule.tenant, schedule.schedule_id, schedule.next_at, next_at, task is not None)
        new = [new_values(task)] if task else []

        def advance(c: sqlite3.Connection) -> bool:
            if c.execute(ADVANCE, values).rowcount != 1:
                return False
            insert(c, new, time.time())
            return True

        return await self._write(advance)
