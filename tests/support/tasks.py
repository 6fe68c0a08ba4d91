"""Tasks with sensible contents, for tests of the stores and of jobs."""

from __future__ import annotations

import itertools
from typing import Any

from heavy.jobs.rows import Lane, NewTask, TaskEnd, TaskRow
from heavy.jobs.stores import JobStores
from heavy.turns.rows import SessionEvent
from tests.support.turns import LEASE

_numbers = itertools.count()


def new_task(task_id: str = "", **other: Any) -> NewTask:
    """A task of tenant `acme` and agent `shop`, due now, in a session of its own."""
    task_id = task_id or f"t_{next(_numbers):05d}"
    values: dict[str, Any] = {"tenant": "acme", "session_id": f"s_{task_id}", "agent_id": "shop", "max_attempts": 3}
    return NewTask(task_id=task_id, **{**values, "request": {"message": f"question of {task_id}"}, **other})


async def submit(stores: JobStores, *task_ids: str, **other: Any) -> None:
    """Stores pending tasks, one after another."""
    for task_id in task_ids:
        await stores.tasks.submit(new_task(task_id, **other))


async def pick(stores: JobStores, limit: int = 100, lane: Lane = "task", **other: Any) -> list[TaskRow]:
    """Picks for the owner `a`."""
    values = {"owner": "a", "lease_seconds": LEASE, "depth": 64, **other}
    return list(await stores.tasks.pick(lane, limit=limit, **values))


async def picked(stores: JobStores, limit: int = 100, lane: Lane = "task", **other: Any) -> list[str]:
    """The ids of what is picked."""
    return [t.task_id for t in await pick(stores, limit, lane, **other)]


def end(task_id: str, status: Any = "success", kind: str = "", **other: Any) -> TaskEnd:
    """The end of a task, with an event of that kind."""
    return TaskEnd(task_id, status, SessionEvent(kind or f"task.{status}", {"task_id": task_id}), **other)
