"""Tasks and batches on PostgreSQL: each step is one statement, so one round trip and one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from heavy.jobs.rows import OPEN, BatchRow, Hook, Lane, LaneStats, NewBatch, NewTask, TaskEnd, TaskRow, TaskStatus
from heavy.storage.postgres import task_statements as sql
from heavy.storage.postgres.sessions import Runner
from heavy.storage.task_rows import NEW_COLUMNS, batch_of, end_values, hook_values, new_values, page_of, task_of, viewed_of

MOST_COUNTED = 100_000


class PostgresTasks:
    """TaskStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def submit(self, task: NewTask) -> tuple[TaskRow, bool]:
        """Stores a task, or finds the one of its id."""
        row = await self._database.fetchrow(sql.SUBMIT, *columns([task]))
        if row is not None:
            return task_of(row), True
        known = await self._database.fetchrow(sql.GET, task.tenant, task.task_id)
        return viewed_of(known), False

    async def submit_batch(self, batch: NewBatch, tasks: Sequence[NewTask]) -> tuple[BatchRow, bool]:
        """Stores a batch with its tasks, or finds the one of its id."""
        place = (batch.tenant, batch.batch_id)
        arrays = await asyncio.to_thread(columns, tasks, batch.hook)  # of ten thousand tasks it takes a tenth of a second
        row = await self._database.fetchrow(sql.SUBMIT_BATCH, *arrays, *place, *hook_values(batch.hook), batch.fingerprint)
        if row is not None:
            return batch_of(row), True
        return batch_of(await self._database.fetchrow(sql.BATCH, *place)), False

    async def get(self, tenant: str, task_id: str) -> TaskRow | None:
        """The task with its turn."""
        row = await self._database.fetchrow(sql.GET, tenant, task_id)
        return viewed_of(row) if row else None

    async def page(
        self,
        tenant: str,
        *,
        status: TaskStatus | None = None,
        session_id: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int,
    ) -> Sequence[TaskRow]:
        """Tasks with their turns, the newest first."""
        statement, values = page_of("${}".format, tenant, status, session_id, before, limit)
        return [viewed_of(r) for r in await self._database.fetch(statement, *values)]

    async def pick(self, lane: Lane, *, owner: str, lease_seconds: float, limit: int, depth: int) -> Sequence[TaskRow]:
        """Due tasks for this owner. Those whose reply was lost with the connection are pending again when their lease has run out."""
        rows = await self._database.fetch(sql.PICK, lane, owner, lease_seconds, limit, depth)
        return sorted(map(task_of, rows), key=lambda t: (t.run_at, t.task_id))

    async def release(self, task: TaskRow, *, delay_seconds: float = 0.0) -> bool:
        """A picked task is pending again."""
        return bool(await self._database.fetch(sql.RELEASE, task.tenant, task.task_id, task.owner, task.lease_until, delay_seconds))

    async def postpone(self, tenant: str, task_id: str, run_at: float) -> bool:
        """A running task waits for its next attempt."""
        return bool(await self._database.fetch(sql.POSTPONE, tenant, task_id, run_at))

    async def park(self, tenant: str, task_id: str) -> bool:
        """A running task takes nobody's place."""
        return bool(await self._database.fetch(sql.PARK, tenant, task_id))

    async def end(self, tenant: str, ends: Sequence[TaskEnd], *, only: Collection[TaskStatus] = OPEN) -> Sequence[TaskRow]:
        """Ends tasks; those that were ended by this call."""
        if not ends:
            return []
        ids, statuses, *rest = ([*column] for column in zip(*map(end_values, ends), strict=True))
        tries = 0

        async def end(connection: Any) -> list[Any]:
            nonlocal tries
            tries += 1
            rows = await connection.fetch(sql.END, tenant, ids, statuses, *rest, [*only])
            if not rows and tries > 1:  # the connection broke, maybe behind the commit
                rows = await connection.fetch(sql.ENDED, tenant, ids, statuses)
            return list(rows)

        return [task_of(r) for r in await self._database.run(end)]

    async def request_cancel(self, tenant: str, task_id: str) -> TaskRow | None:
        """Notes on a running task that its end was asked for."""
        await self._database.fetch(sql.REQUEST_CANCEL, tenant, task_id)
        return await self.get(tenant, task_id)

    async def unsettled(self, *, limit: int) -> Sequence[TaskRow]:
        """Running tasks with their turns that nobody may be about to settle."""
        return [viewed_of(r) for r in await self._database.fetch(sql.UNSETTLED, limit)]

    async def batch(self, tenant: str, batch_id: str) -> BatchRow | None:
        """The batch with its counts."""
        row = await self._database.fetchrow(sql.BATCH, tenant, batch_id)
        if row is None:
            return None
        return batch_of(row, [(r["status"], r["n"]) for r in await self._database.fetch(sql.COUNTS, tenant, batch_id)])

    async def items(self, tenant: str, batch_id: str, *, after: int, limit: int) -> Sequence[TaskRow]:
        """The tasks of a batch with their turns, in order."""
        return [viewed_of(r) for r in await self._database.fetch(sql.ITEMS, tenant, batch_id, after, limit)]

    async def stats(self) -> Mapping[Lane, LaneStats]:
        """How the lanes are doing."""
        rows = await self._database.fetch(sql.STATS, MOST_COUNTED)
        return {r["lane"]: LaneStats(r["waiting"], r["running"], r["oldest"]) for r in rows}


def columns(tasks: Sequence[NewTask], hook: Hook | None = None) -> list[list[Any]]:
    """New tasks as arrays of NEW_COLUMNS, with the batch's hook."""
    return [[*column] for column in zip(*(new_values(t, hook) for t in tasks), strict=True)] or [[] for _ in NEW_COLUMNS]
