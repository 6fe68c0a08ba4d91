"""A node that runs tasks: its dispatcher, its sweep and its scheduler, each step called by the test unless it asks for them to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.endpoints.call import HttpCaller
from common.errors import BudgetExceeded, LoadsplitError
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from heavy.agent.scripted import Say
from heavy.jobs.dispatch import Costs, Dispatcher
from heavy.jobs.rows import TaskRow
from heavy.jobs.schedules import Scheduler
from heavy.jobs.settle import Settling
from heavy.jobs.stores import JobStores
from heavy.llm.legs import Ask, Leg
from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Target
from tests.support.node import Node, SlowGateway
from tests.support.tasks import new_task
from tests.support.waiting import wait_until


class FailingGateway(SlowGateway):
    """Echoes the message; one that says `fail` fails as long as `failing`, and none is paid for while `refusal` is there. While `open` is
    not set nothing is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = True
        self.refusal: LoadsplitError | None = None
        self._script = self._say

    async def complete(self, request: LLMRequest) -> Completed:
        """Waits until it may answer."""
        try:
            await self.open.wait()
            return await super().complete(request)
        finally:
            self.closed += 1

    def catalogue(self) -> dict[str, tuple[Target, ...]]:
        """There is no model behind it that could be asked directly."""
        return {}

    async def legs(self, ask: Ask) -> AsyncGenerator[Leg, None]:
        """No target."""
        for leg in ():
            yield leg

    def _say(self, request: LLMRequest) -> Say:
        message = request.messages[-1].content
        if self.refusal is not None:
            raise self.refusal
        if "fail" in message and self.failing:
            return Say(error=LLMCallFailed("the model is down", kind="server_error"))
        return Say(f"you said {message}")


class JobNode(Node):
    """`slots` as in the setting. `run` keeps all of it going."""

    stores: JobStores

    def __init__(self, stores: JobStores, hotstore: HotStore, caller: HttpCaller, slots: int, max_inflight: int) -> None:
        super().__init__(stores, hotstore, caller, max_inflight, FailingGateway())
        self.closed: dict[str, LoadsplitError] = {}
        self.metrics = Metrics()
        self.settling = Settling(stores, self.owner, hotstore, self.metrics)
        self.dispatcher = Dispatcher(
            stores=stores,
            turns=self.turns,
            owner=self.owner,
            hotstore=hotstore,
            settling=self.settling,
            door=self.enter,
            metrics=self.metrics,
            slots=slots,
            rules=self.plan,
        )
        self.plans: dict[str, Plan] = {}
        self.scheduler = Scheduler(stores.schedules, self.dispatcher, self.metrics)

    @asynccontextmanager
    async def enter(self, tenant: str, costs: Costs) -> AsyncIterator[None]:
        """The door of a tenant, closed for those in `closed`; what asks no model does not mind that a budget is spent."""
        refusal = self.closed.get(tenant)
        if refusal is not None and (not isinstance(refusal, BudgetExceeded) or await costs()):
            raise refusal
        yield

    async def plan(self, query: Query, tenant: str) -> tuple[Plan, str]:
        """What the rules make of a message: what stands in `plans`. No version is named."""
        return self.plans.get(query.message, Plan()), ""

    async def submit(self, task_id: str, message: str = "hello there", **other: Any) -> TaskRow:
        """Stores a task of tenant acme."""
        request = {"message": message, "user_id": None, "context": {}, "request_id": "r1"}
        task, _ = await self.stores.tasks.submit(new_task(task_id, request=request, **other))
        return task

    async def task(self, task_id: str) -> TaskRow:
        """The task as it is stored."""
        task = await self.stores.tasks.get("acme", task_id)
        assert task is not None
        return task

    async def until(self, task_id: str, status: str) -> TaskRow:
        """Returns the task once it has that status."""

        async def so() -> bool:
            return (await self.task(task_id)).status == status

        await wait_until(so, f"{task_id} is {status}")
        return await self.task(task_id)

    def outcome(self, outcome: str, lane: str = "task") -> float:
        """How often this node has counted an outcome."""
        return float(self.metrics.tasks_total.labels(lane, outcome).value)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The dispatcher at work as in a process."""
        work = [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(self.dispatcher.listen())]
        try:
            yield
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)


@asynccontextmanager
async def job_node(stores: JobStores, hotstore: HotStore, *, slots: int = 8, max_inflight: int = 100) -> AsyncIterator[JobNode]:
    """A node that is drained at the end."""
    async with HttpCaller() as caller:
        one = JobNode(stores, hotstore, caller, slots, max_inflight)
        try:
            yield one
        finally:
            await one.turns.drain(0)
            await one.dispatcher.drain()
