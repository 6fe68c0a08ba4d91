"""The stores that jobs need, as protocols; `heavy.storage` implements them for PostgreSQL and SQLite, `heavy.jobs.rows` has what passes.

The queue is the table of tasks: a due task is picked by one process, becomes a turn, and is ended exactly once. Everything here raises
DatabaseUnavailable when the database is away, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from heavy.configs.stores import ConfigStore
from heavy.jobs.rows import OPEN, BatchRow, Lane, LaneStats, NewBatch, NewSchedule, NewTask, ScheduleRow, TaskEnd, TaskRow, TaskStatus
from heavy.jobs.upkeep import UpkeepStore
from heavy.turns.stores import Stores


class TaskStore(Protocol):
    """Tasks and batches. Every method is one transaction."""

    async def submit(self, task: NewTask) -> tuple[TaskRow, bool]:
        """Stores a task, pending. Where there is one of its id already, that one, and False."""

    async def submit_batch(self, batch: NewBatch, tasks: Sequence[NewTask]) -> tuple[BatchRow, bool]:
        """Stores a batch with all its tasks, or nothing of it. Where there is one of its id already, that one, and False."""

    async def get(self, tenant: str, task_id: str) -> TaskRow | None:
        """The task with its turn, None when unknown to this tenant."""

    async def page(
        self,
        tenant: str,
        *,
        status: TaskStatus | None = None,
        session_id: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int,
    ) -> Sequence[TaskRow]:
        """Tasks with their turns, the newest first; `before` is (created_at, task_id) of the last one of the page before. `status` is that
        which clients see: a running task whose turn has ended is what the turn says."""

    async def pick(self, lane: Lane, *, owner: str, lease_seconds: float, limit: int, depth: int) -> Sequence[TaskRow]:
        """Makes up to `limit` due tasks running, one attempt more, leased to `owner`.

        Fair between tenants: each tenant's next task stands in line behind as many others as the tenant has running in this lane. A task
        is passed over while a turn of its session is active, or an earlier task of it waits or runs: so a session's tasks run one after
        another. Of each tenant only the first `depth` due ones are looked at. Two callers at once are given different tasks.
        """

    async def release(self, task: TaskRow, *, delay_seconds: float = 0.0) -> bool:
        """A picked task that has not become a turn is pending again, due no earlier than in `delay_seconds`; the attempt does not count.
        False when another has it by now, or its end was asked for."""

    async def postpone(self, tenant: str, task_id: str, run_at: float) -> bool:
        """A running task waits for its next attempt. False when it does not run, or its end was asked for."""

    async def park(self, tenant: str, task_id: str) -> bool:
        """A running task whose turn awaits an approval has no owner any more: it takes nobody's place. False when it does not run."""

    async def end(self, tenant: str, ends: Sequence[TaskEnd], *, only: Collection[TaskStatus] = OPEN) -> Sequence[TaskRow]:
        """Ends tasks whose status is one of `only` (none that has ended); returns those that were ended by this call.

        In the same commit: the batch counts one open task less, and is finished at none; the session, if there is one, gets the event.
        """

    async def request_cancel(self, tenant: str, task_id: str) -> TaskRow | None:
        """Notes on a running task that its end was asked for; the task with its turn as it is, None when unknown."""

    async def unsettled(self, *, limit: int) -> Sequence[TaskRow]:
        """Running tasks, of all owners, that nobody may be about to settle: the lease has run out and there is no turn, or one that does
        not run; or there is a turn, and the task's end was asked for."""

    async def batch(self, tenant: str, batch_id: str) -> BatchRow | None:
        """The batch with its counts, None when unknown to this tenant."""

    async def items(self, tenant: str, batch_id: str, *, after: int, limit: int) -> Sequence[TaskRow]:
        """The tasks of a batch with their turns, in the order of its items, behind position `after`."""

    async def stats(self) -> Mapping[Lane, LaneStats]:
        """How the lanes are doing, over all tenants."""


class ScheduleStore(Protocol):
    """Cron schedules."""

    async def create(self, schedule: NewSchedule) -> ScheduleRow:
        """Stores a schedule, enabled."""

    async def get(self, tenant: str, schedule_id: str) -> ScheduleRow | None:
        """The schedule, None when unknown to this tenant."""

    async def page(self, tenant: str, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[ScheduleRow]:
        """Schedules, the newest first; `before` is (created_at, schedule_id) of the last one of the page before."""

    async def enable(self, tenant: str, schedule_id: str, *, enabled: bool, next_at: float | None = None) -> ScheduleRow | None:
        """Switches a schedule on or off; `next_at` replaces its next tick. None when unknown."""

    async def delete(self, tenant: str, schedule_id: str) -> bool:
        """Erases a schedule; the tasks that it has made stay. False when unknown."""

    async def due(self, *, limit: int) -> tuple[float, Sequence[ScheduleRow]]:
        """The time by the database's clock, and the enabled schedules whose tick has come, the longest overdue first."""

    async def advance(self, schedule: ScheduleRow, next_at: float, task: NewTask | None) -> bool:
        """Moves an enabled schedule from the tick `schedule.next_at` to `next_at` and stores the tick's task, unless one of that id is
        there; without a task the tick is dropped. False, and nothing changed, when another process has done so."""


class JobStores(Stores, Protocol):
    """An open database with the stores of jobs and of the config centre."""

    tasks: TaskStore
    schedules: ScheduleStore
    upkeep: UpkeepStore
    configs: ConfigStore
