"""Runs due tasks in the slots of this process: picks them, makes turns of them, and has them settled when these have ended.

Interactive turns have no slots and never wait for tasks. The lane `task` comes first, and leaves the last tenth of what the process takes
to messages; `batch` gets at most half of the slots, and none while half of it is under way. A hint wakes the look-out at once; it also
looks for itself every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.errors import BudgetExceeded, DependencyUnavailable, IdempotencyMismatch, LoadsplitError, Overloaded, RateLimited
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.jobs.rows import LANES, Lane, TaskRow
from heavy.jobs.settle import Settling
from heavy.jobs.stores import JobStores
from heavy.jobs.tasks import failed, query_of, request_id_of
from heavy.turns.life import Turns
from heavy.turns.owner import OwnedTurn, TurnOwner
from heavy.turns.rows import TurnRow
from heavy.turns.stores import DatabaseUnavailable

POLL_SECONDS = 1.0
QUIET_SECONDS = 0.02  # after a look that found nothing, how long hints are gathered
REST_SECONDS = 1.0  # after a turn could not begin here
REFUSED_SECONDS = 5.0  # at a limit of the tenant, where it is not said for how long
# How many due tasks of a tenant a look goes through: few when it is told that something is due; when it looks for itself and there is room
# left, enough to get past a long row of tasks whose session is busy.
DEPTH, DEEP = 64, 10_000
SETTLE_SECONDS = 2.0
# What part of a node stays free of each lane, for messages: they come first.
LEFT_FREE: Mapping[Lane, float] = {"task": 0.1, "batch": 0.5}
log = logging.getLogger(__name__)

Costs = Callable[[], Awaitable[bool]]
Door = Callable[[str, Costs], AbstractAsyncContextManager[None]]
Rules = Callable[[Query, str], Awaitable[tuple[Plan | None, str]]]


class Dispatcher:
    """The slots of one process. `slots` 0 runs no tasks here. Through `door` the turns
    of a tenant go in: it raises RateLimited or BudgetExceeded where the tenant may have no more. `rules` says what the rules make of a
    message of a tenant (None where they are not known here), and the hash of their version: tasks have not passed the rule tier."""

    def __init__(
        self,
        *,
        stores: JobStores,
        turns: Turns,
        owner: TurnOwner,
        hotstore: HotStore,
        settling: Settling,
        door: Door,
        metrics: Metrics,
        slots: int,
        rules: Rules,
    ) -> None:
        self._stores = stores
        self._turns = turns
        self._owner = owner
        self._hotstore = hotstore
        self._settling = settling
        self._door = door
        self._metrics = metrics
        self._slots = slots
        self._rules = rules
        # Slots, by lane; and the tasks that are seen through here, whose slots are free again before they are settled.
        self._taken: Counter[Lane] = Counter()
        self._seen: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._rests_until = 0.0

    def room(self, lane: Lane) -> int:
        """How many tasks of a lane may begin here now."""
        turns = self._turns.room - int(self._turns.entrance.limit.now * LEFT_FREE[lane])
        if turns <= 0 or time.monotonic() < self._rests_until:
            return 0
        free = min(self._slots - self._taken.total(), turns)
        if lane == "batch":
            free = min(free, max(1, self._slots // 2) - self._taken["batch"])
        return max(0, free)

    async def hint(self, lane: Lane, count: int = 1) -> None:
        """Tells whoever has room that so many tasks may be due: this process, and where that is not enough, all others."""
        room = self.room(lane)
        if room:
            self._news.set()
        if room < count:
            await self._tell_others(lane)

    async def run(self) -> None:
        """Looks for due tasks until cancelled: when there is news, and every second."""
        told = False
        while True:
            self._news.clear()
            try:
                found = await self.look(deep=not told)
            except DatabaseUnavailable as e:
                log.warning("no tasks picked: %s", e.detail)
                found = 0
            if told and not found:
                await asyncio.sleep(QUIET_SECONDS * random.uniform(0.5, 1.5))
            told = True
            try:
                async with asyncio.timeout(POLL_SECONDS * random.uniform(0.8, 1.2)):
                    await self._news.wait()
            except TimeoutError:
                told = False

    async def listen(self) -> None:
        """Hears of due tasks from other processes until cancelled."""
        while True:
            with contextlib.suppress(HotStoreUnavailable):
                async with self._hotstore.subscribe(keys.TASKS) as messages:
                    async for message in messages:
                        if any(message == lane.encode() and self.room(lane) for lane in LANES):
                            self._news.set()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self, *, deep: bool) -> int:
        """Begins due tasks as far as there is room; how many."""
        begun = 0
        for lane in LANES:
            for depth in (DEPTH, DEEP) if deep else (DEPTH,):
                room = self.room(lane)
                if room == 0:
                    break
                lease = self._owner.lease_seconds
                picked = await self._stores.tasks.pick(lane, owner=self._owner.name, lease_seconds=lease, limit=room, depth=depth)
                for task in picked:
                    self._metrics.task_wait_seconds.labels(lane).observe(max(0.0, task.lease_until - lease - task.run_at))
                    self._taken[lane] += 1
                    seen = asyncio.create_task(self._see_through(task), name=f"task {task.task_id}")
                    self._seen.add(seen)
                    seen.add_done_callback(self._seen.discard)
                begun += len(picked)
                if len(picked) == room:  # there may be more
                    await self._tell_others(lane)
        return begun

    async def drain(self) -> None:
        """Lets tasks be settled whose turns have ended or left; the rest is for others."""
        if self._seen:
            await asyncio.wait(self._seen, timeout=SETTLE_SECONDS)
        for seen in list(self._seen):
            seen.cancel()
        if self._seen:
            await asyncio.wait(self._seen)

    async def _tell_others(self, lane: Lane) -> None:
        with contextlib.suppress(HotStoreUnavailable):  # they look for themselves
            await self._hotstore.publish(keys.TASKS, lane.encode())

    async def _see_through(self, task: TaskRow) -> None:
        """From the picked task to its end, as far as this process has a part in it."""
        try:
            try:
                ran = await self._run(task)
            finally:
                self._taken[task.lane] -= 1
                self._news.set()
            if not ran:
                return
            fresh = await self._stores.tasks.get(task.tenant, task.task_id)
            if fresh is not None and fresh.status == "running":
                await self._settling.settle(fresh)
                self._news.set()  # the session's next task may begin
        except DependencyUnavailable as e:
            log.warning("task %s is settled later: %s", task.task_id, e.detail)
        except Exception:  # the slot must be free again whatever broke; the sweep settles the task
            log.exception("task %s broke off", task.task_id)

    async def _run(self, task: TaskRow) -> bool:
        """Runs a picked task as a turn to where that leaves this process; False where the task has been dealt with."""
        try:
            turn = await self._begin(task)
        except DependencyUnavailable:
            raise
        except Overloaded:
            self._rests_until = time.monotonic() + REST_SECONDS
            await self._stores.tasks.release(task)
            return False
        except (RateLimited, BudgetExceeded) as e:  # a limit of the tenant: nothing was begun
            await self._stores.tasks.release(task, delay_seconds=e.retry_after or REFUSED_SECONDS)
            return False
        except LoadsplitError as e:
            await self._settling.end(task, failed(task, e))
            return False
        if isinstance(turn, OwnedTurn) and turn.task is not None:
            await asyncio.wait([turn.task])
        return True

    async def _begin(self, task: TaskRow) -> OwnedTurn | TurnRow:
        if task.fingerprint and task.attempts == 1:
            earlier = await self._stores.turns.get(task.tenant, task.task_id)
            if earlier is not None and "task" not in earlier.request:
                raise IdempotencyMismatch("the Idempotency-Key of this task has become a query meanwhile")
        query = query_of(task)
        plan, config_hash = await self._rules(query, task.tenant)
        async with self._door(task.tenant, partial(self._turns.may_cost, query, task.tenant, plan)):
            return await self._turns.run_task(
                query,
                tenant=task.tenant,
                turn_id=task.task_id,
                plan=plan,
                max_attempts=task.max_attempts,
                request_id=request_id_of(task),
                traceparent=str(task.request.get("traceparent", "")),
                config_hash=config_hash,
            )
