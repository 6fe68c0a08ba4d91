"""Cron schedules on PostgreSQL. A tick is taken and its task stored in one statement, by whoever finds the tick still to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heavy.jobs.rows import NewSchedule, NewTask, ScheduleRow
from heavy.storage.postgres.sessions import Runner
from heavy.storage.postgres.task_statements import NEW, insert
from heavy.storage.postgres.tasks import columns
from heavy.storage.task_rows import schedule_of, schedule_values

GET = "SELECT * FROM schedules WHERE tenant = $1 AND schedule_id = $2"

CREATE = """
INSERT INTO schedules (tenant, schedule_id, cron, timezone, session_id, agent_id, request, max_attempts, webhook_id, webhook_events,
    enabled, next_at, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, true, $11, extract(epoch FROM now())::float8) ON CONFLICT DO NOTHING
"""

PAGE = """
SELECT * FROM schedules WHERE tenant = $1 AND ($2::float8 IS NULL OR (created_at, schedule_id) < ($2, $3::text))
ORDER BY created_at DESC, schedule_id DESC LIMIT $4
"""

ENABLE = "UPDATE schedules SET enabled = $3, next_at = COALESCE($4, next_at) WHERE tenant = $1 AND schedule_id = $2 RETURNING *"
DELETE = "DELETE FROM schedules WHERE tenant = $1 AND schedule_id = $2 RETURNING 1"

CLOCK = "SELECT extract(epoch FROM now())::float8 AS now"
DUE = "SELECT * FROM schedules WHERE enabled AND next_at <= extract(epoch FROM now())::float8 ORDER BY next_at LIMIT $1"

# Arrays of NEW_COLUMNS (empty for a tick that is dropped), then $19 tenant, $20 schedule, $21 the tick, $22 the next one.
ADVANCE = f"""
WITH s AS (
    UPDATE schedules SET next_at = $22, last_at = CASE WHEN cardinality($1::text[]) = 0 THEN last_at ELSE $21 END
    WHERE tenant = $19 AND schedule_id = $20 AND next_at = $21 AND enabled RETURNING *),
t AS ({insert(f"(SELECT new.* FROM {NEW}, s) AS new")})
SELECT 1 FROM s
"""


class PostgresSchedules:
    """ScheduleStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def create(self, schedule: NewSchedule) -> ScheduleRow:
        """Stores a schedule, enabled."""
        await self._database.fetch(CREATE, *schedule_values(schedule), schedule.next_at)
        return schedule_of(await self._database.fetchrow(GET, schedule.tenant, schedule.schedule_id))

    async def get(self, tenant: str, schedule_id: str) -> ScheduleRow | None:
        """The schedule, None when unknown to this tenant."""
        row = await self._database.fetchrow(GET, tenant, schedule_id)
        return schedule_of(row) if row else None

    async def page(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[ScheduleRow]:
        """Schedules, the newest first."""
        return [schedule_of(r) for r in await self._database.fetch(PAGE, tenant, *(before or (None, None)), limit)]

    async def enable(self, tenant: str, schedule_id: str, *, enabled: bool, next_at: float | None = None) -> ScheduleRow | None:
        """Switches a schedule on or off."""
        row = await self._database.fetchrow(ENABLE, tenant, schedule_id, enabled, next_at)
        return schedule_of(row) if row else None

    async def delete(self, tenant: str, schedule_id: str) -> bool:
        """Erases a schedule."""
        tries = 0

        async def erase(connection: Any) -> bool:
            nonlocal tries
            tries += 1
            return await connection.fetchrow(DELETE, tenant, schedule_id) is not None or tries > 1

        return await self._database.run(erase)

    async def due(self, *, limit: int) -> tuple[float, Sequence[ScheduleRow]]:
        """The database's time and the schedules whose tick has come."""

        async def look(connection: Any) -> tuple[float, list[Any]]:
            return (await connection.fetchrow(CLOCK))["now"], await connection.fetch(DUE, limit)

        now, rows = await self._database.run(look)
        return now, [schedule_of(r) for r in rows]

    async def advance(self, schedule: ScheduleRow, next_at: float, task: NewTask | None) -> bool:
        """Takes a tick, if it is still to come."""
        place = (schedule.tenant, schedule.schedule_id, schedule.next_at, next_at)
        return await self._database.fetchrow(ADVANCE, *columns([task] if task else []), *place) is not None
