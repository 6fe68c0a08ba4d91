"""Makes tasks of the ticks of schedules. Every process looks every second; a tick belongs to the one that moves the schedule on.

What was missed while no process ran is caught up, tick by tick, where it is at most an hour old; older ticks are dropped and counted. The
id of a tick's task follows from the schedule and the tick: not even a schedule that is set back repeats one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass

from common.errors import InvalidRequest
from common.telemetry.metrics import Metrics
from heavy.jobs.cron import Cron
from heavy.jobs.dispatch import Dispatcher
from heavy.jobs.rows import NewTask, ScheduleRow
from heavy.jobs.stores import ScheduleStore
from heavy.jobs.tasks import derived_id
from heavy.turns.stores import DatabaseUnavailable

EVERY_SECONDS = 1.0
AT_ONCE = 100
CAUGHT_UP_SECONDS = 3600.0
MOST_COUNTED = 10_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a due schedule goes: to `next_at`. `fires` says whether its tick makes a task; `missed` counts ticks that are dropped."""

    next_at: float
    fires: bool
    missed: int = 0


class Scheduler:
    """The look-out of one process."""

    def __init__(self, schedules: ScheduleStore, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._schedules = schedules
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._unread: set[str] = set()  # schedules that this process cannot read: each is told of once

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                while await self.tick_due():
                    pass
            except DatabaseUnavailable as e:
                log.warning("no schedules ticked: %s", e.detail)
            await asyncio.sleep(EVERY_SECONDS)

    async def tick_due(self) -> int:
        """Moves each due schedule on by one step; how many were moved here."""
        now, due = await self._schedules.due(limit=AT_ONCE)
        moved = 0
        for schedule in due:
            try:
                moved += await self._move(schedule, step(schedule, now))
            except InvalidRequest as e:  # it was read when it was made: this process lacks a time zone
                if schedule.schedule_id not in self._unread:
                    log.error("schedule %s cannot tick here: %s", schedule.schedule_id, e.detail)
                    self._unread.add(schedule.schedule_id)
        return moved

    async def _move(self, schedule: ScheduleRow, to: Step) -> bool:
        if not await self._schedules.advance(schedule, to.next_at, task_of(schedule) if to.fires else None):
            return False  # another process was quicker
        self._metrics.schedule_ticks_total.labels("fired" if to.fires else "missed").inc(to.missed or 1)
        if to.fires:
            await self._dispatcher.hint("task")
        else:
            log.warning("schedule %s: %d ticks were missed for more than an hour and are dropped", schedule.schedule_id, to.missed)
        return True


def step(schedule: ScheduleRow, now: float) -> Step:
    """The step of a due schedule. Raises InvalidRequest for one that cannot be read here."""
    cron, oldest = Cron(schedule.cron, schedule.timezone), now - CAUGHT_UP_SECONDS
    if schedule.next_at >= oldest:
        return Step(cron.after(schedule.next_at), fires=True)
    missed, tick = 0, schedule.next_at
    for missed in itertools.count(1):
        tick = cron.after(tick)
        if tick >= oldest:
            break
        if missed == MOST_COUNTED:
            tick = cron.after(oldest)
            break
    return Step(tick, fires=False, missed=missed)


def task_of(schedule: ScheduleRow) -> NewTask:
    """The task of a schedule's next tick."""
    tick = schedule.next_at
    return NewTask(
        tenant=schedule.tenant,
        task_id=derived_id("tick", schedule.tenant, schedule.schedule_id, f"{tick:.0f}", prefix=f"t_{int(tick * 1000):012x}"),
        session_id=schedule.session_id,
        agent_id=schedule.agent_id,
        request=schedule.request,
        max_attempts=schedule.max_attempts,
        schedule_id=schedule.schedule_id,
        hook=schedule.hook,
    )
