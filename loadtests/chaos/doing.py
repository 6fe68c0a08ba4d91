"""Carries the plan out on a running split: in order, at most a few at a time, each until its target serves again. Then everything is well.

Clients ask `room` before a message, so that they wait for faults that are behind the plan and none of them hits an idle system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from loadtests.chaos.history import FaultDone, Window
from loadtests.chaos.plan import Fault
from loadtests.split import Split

AT_ONCE = 3
DRAIN_GRACE = 20.0


class Doing:
    """The faults of one run. `clock` gives the run's seconds; `done` fills as targets serve again."""

    def __init__(self, split: Split, plan: Sequence[Fault], clock: Callable[[], float]) -> None:
        self._split, self._plan, self._clock = split, plan, clock
        self._due = asyncio.Event()
        self._sent = 0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._of_target: dict[str, asyncio.Lock] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._next = 0
        self._begun = asyncio.Condition()
        self.done: list[FaultDone] = []
        self.redis_away: list[Window] = []
        self.ended = False

    async def room(self) -> None:
        """One more message is sent; returns once no fault is overdue."""
        self._sent += 1
        self._due.set()
        async with self._begun:
            await self._begun.wait_for(lambda: self.ended or not self._overdue())

    async def run(self) -> None:
        """All faults in their order, each when it is due. Raises CannotRun when a target does not come back."""
        try:
            async with asyncio.TaskGroup() as group:
                for fault in self._plan:
                    while fault.after > self._sent:
                        self._due.clear()
                        await self._due.wait()
                    await self._slots.acquire()
                    group.create_task(self._one(fault))
                    async with self._begun:
                        self._next = fault.number + 1
                        self._begun.notify_all()
        finally:
            self.ended = True
            async with self._begun:
                self._begun.notify_all()

    async def _one(self, fault: Fault) -> None:
        try:
            async with self._of_target.setdefault(fault.target, asyncio.Lock()):
                member = self._split.members[fault.target]
                began = self._clock()
                if fault.kind == "freeze":
                    member.freeze()
                    await asyncio.sleep(fault.seconds)
                    member.thaw()
                    await member.wait_ready()
                else:
                    if fault.kind == "kill":
                        await member.kill()
                        await asyncio.sleep(fault.seconds)
                    else:
                        await member.stop(DRAIN_GRACE)
                    await member.start()
                ended = self._clock()
                self.done.append(FaultDone(fault.number, fault.kind, fault.target, fault.seconds, began, ended))
                if fault.target == "redis":
                    self.redis_away.append(Window(began, ended, f"fault {fault.number}: {fault.kind}"))
        finally:
            self._slots.release()

    def _overdue(self) -> bool:
        return self._next < len(self._plan) and self._plan[self._next].after <= self._sent
