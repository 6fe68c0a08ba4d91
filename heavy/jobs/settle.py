"""Brings tasks into line with their turns: ends them, puts them off, gives them back. Once right after a task's run, and, as a safety net
for whatever died or was away in between, every two seconds for all tasks that nobody may be about to settle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from heavy.jobs.rows import LANES, PENDING, TaskEnd, TaskRow
from heavy.jobs.stores import JobStores
from heavy.jobs.tasks import cancelled, end_of
from heavy.turns.notes import tell
from heavy.turns.owner import TurnOwner
from heavy.turns.states import ACTIVE
from heavy.turns.stores import DatabaseUnavailable

EVERY_SECONDS = 2.0
AT_ONCE = 100
FIGURES_EVERY = 5  # passes: the figures of the lanes are read this often
CANCELLED = "the task was cancelled"
TRIES = 3
log = logging.getLogger(__name__)


class Settling:
    """Everything that ends a task goes through here. Two that settle the same task at once do no harm: each step holds only once."""

    def __init__(self, stores: JobStores, owner: TurnOwner, hotstore: HotStore, metrics: Metrics) -> None:
        self._stores = stores
        self._owner = owner
        self._hotstore = hotstore
        self._metrics = metrics

    async def run(self) -> None:
        """Settles what is left over until cancelled."""
        passes = 0
        while True:
            try:
                while await self.sweep() == AT_ONCE:
                    pass
                if passes % FIGURES_EVERY == 0:
                    await self._read_figures()
                passes += 1
            except DatabaseUnavailable as e:
                log.warning("no tasks settled: %s", e.detail)
            await asyncio.sleep(EVERY_SECONDS)

    async def sweep(self) -> int:
        """Settles tasks that nobody may be about to settle; how many were looked at."""
        found = await self._stores.tasks.unsettled(limit=AT_ONCE)
        changed = [await self.settle(task) for task in found]
        return len(found) if any(changed) else 0

    async def settle(self, task: TaskRow) -> bool:
        """Does what follows for a running task from its turn, as both were read; whether anything did. Raises DatabaseUnavailable."""
        tasks, turn = self._stores.tasks, task.turn
        if (end := end_of(task)) is not None:
            return await self.end(task, end)
        if task.cancel_requested:
            return await self.cancel(task)
        if turn is None:
            return await tasks.release(task)
        if turn.state == "accepted":
            postponed = await tasks.postpone(task.tenant, task.task_id, turn.not_before)
            self._metrics.tasks_total.labels(task.lane, "retried").inc(postponed)
            return postponed
        if turn.state == "awaiting_approval" and task.owner is not None:
            return await tasks.park(task.tenant, task.task_id)
        return False

    async def ask_to_cancel(self, task: TaskRow) -> None:
        """Cancels an open task: at once while it waits, else by way of its turn. One that is just about to become a turn is cancelled by
        the next sweep."""
        for _ in range(TRIES):
            if task.status == "pending" and await self.cancel_pending([task]):
                return
            noted = await self._stores.tasks.request_cancel(task.tenant, task.task_id)
            if noted is None or noted.status != "pending":
                break
            task = noted
        else:
            return
        if noted is not None and noted.status == "running" and noted.turn is not None:
            await self.cancel(noted)

    async def cancel_pending(self, tasks: Sequence[TaskRow]) -> int:
        """Cancels those of a tenant's tasks that wait for their time, a slot or another attempt; how many."""
        pending = [task for task in tasks if task.status == "pending"]
        turns = self._stores.turns
        await asyncio.gather(*(turns.cancel(t.tenant, t.task_id, reason=CANCELLED) for t in pending if t.turn is not None))
        ended = await self._stores.tasks.end(pending[0].tenant, [cancelled(t) for t in pending], only=PENDING) if pending else ()
        await self.ended(ended)
        return len(ended)

    async def cancel(self, task: TaskRow) -> bool:
        """Ends a running task because someone asked for it: at once where its turn does not run, else by way of the turn."""
        turn = await self._stores.turns.cancel(task.tenant, task.task_id, reason=CANCELLED) if task.turn is not None else None
        if turn is not None and turn.state in ACTIVE:
            await self._owner.cancel_anywhere(task.task_id, CANCELLED)
            return False
        if turn is not None and turn.state != "cancelled":  # it has just ended by itself
            return False
        return await self.end(task, cancelled(task))

    async def end(self, task: TaskRow, end: TaskEnd) -> bool:
        """Ends a task, unless it has ended; whether this was the end."""
        ended = await self._stores.tasks.end(task.tenant, [end])
        if ended:
            await self.ended(ended)
        return bool(ended)

    async def ended(self, tasks: Sequence[TaskRow]) -> None:
        """Counts tasks that were ended, and wakes who watches their sessions."""
        for task in tasks:
            self._metrics.tasks_total.labels(task.lane, task.status).inc()
        await asyncio.gather(*(tell(self._hotstore, *place) for place in {(t.tenant, t.session_id) for t in tasks}))

    async def _read_figures(self) -> None:
        stats = await self._stores.tasks.stats()
        for lane in LANES:
            self._metrics.tasks_waiting.labels(lane).set(stats[lane].waiting)
            self._metrics.tasks_running.labels(lane).set(stats[lane].running)
            self._metrics.tasks_oldest_due.labels(lane).set(stats[lane].oldest_seconds)
