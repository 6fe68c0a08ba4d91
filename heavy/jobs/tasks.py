"""What a task is to its clients, and how it ends: rules only, it writes nothing and knows no store and no HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from common.contracts import session_events as events
from common.contracts.problem import problem
from common.contracts.query import Query
from common.errors import Conflict, LoadsplitError
from common.telemetry.tracing import current_span
from heavy.jobs.rows import OPEN, NewTask, TaskEnd, TaskRow, TaskStatus
from heavy.turns.rows import SessionEvent
from heavy.turns.states import TERMINAL, TurnState

_SEEN: Mapping[TurnState, TaskStatus] = {
    "accepted": "pending",
    "waiting": "running",
    "running": "running",
    "awaiting_approval": "running",
    "done": "success",
    "failed": "failure",
    "cancelled": "cancelled",
}
_EVENTS: Mapping[TaskStatus, str] = {
    "success": events.TASK_COMPLETED,
    "failure": events.TASK_FAILED,
    "cancelled": events.TASK_CANCELLED,
}


def stored_request(query: Query, request_id: str, *, traced: bool = False) -> dict[str, Any]:
    """A query as it stands in a task; its session and agent have columns of their own. `traced`: it is part of the trace of the request
    that it came with."""
    request = {"message": query.message, "user_id": query.user_id, "context": dict(query.context), "request_id": request_id}
    parent = current_span().traceparent if traced else ""
    return {**request, "traceparent": parent} if parent else request


def query_of(task: TaskRow) -> Query:
    """The query of a task."""
    request = task.request
    return Query(request["message"], task.session_id, request["user_id"], task.agent_id, request["context"])


def request_id_of(task: TaskRow) -> str:
    """The id of the request that made the task."""
    return str(task.request.get("request_id", ""))


def seen(task: TaskRow) -> TaskStatus:
    """The status that clients see: a turn that has ended says how, though the task's row may lag behind it for a moment."""
    return _SEEN[task.turn.state] if task.turn is not None and task.status in OPEN else task.status


def document(task: TaskRow) -> dict[str, Any]:
    """A task as clients see it. A task that waits for its next attempt has the error of the last one."""
    status, turn = seen(task), task.turn
    error = task.error or (turn.error if turn is not None else None)
    found: dict[str, Any] = {
        "task_id": task.task_id,
        "session_id": task.session_id,
        "agent_id": task.agent_id,
        "status": status,
        "result": turn.reply if turn is not None and status == "success" else None,
        "error": error if status != "success" else None,
        "attempts": task.attempts,
        "max_attempts": task.max_attempts,
        "turn_state": turn.state if turn is not None else None,
        "run_at": task.run_at,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": (turn.finished_at if turn is not None else None) or task.finished_at,
    }
    where = {"batch_id": task.batch_id, "index": task.position, "schedule_id": task.schedule_id, "retry_of": task.retry_of}
    return found | {name: value for name, value in where.items() if value is not None}


def item_document(task: TaskRow) -> dict[str, Any]:
    """A line of a batch's results."""
    whole = document(task)
    kept = ("index", "task_id", "session_id", "status", "result", "error")
    return {name: whole[name] for name in kept}


def end_of(task: TaskRow) -> TaskEnd | None:
    """How a task ends whose turn has ended; None for one whose turn has not."""
    turn = task.turn
    if turn is None or turn.state not in TERMINAL:
        return None
    if turn.state == "done":
        return TaskEnd(task.task_id, "success", _event(task, "success", result=turn.reply))
    if turn.state == "failed":
        return TaskEnd(task.task_id, "failure", _event(task, "failure", error=turn.error), turn.error)
    return cancelled(task)


def failed(task: TaskRow, error: LoadsplitError) -> TaskEnd:
    """The end of a task that could not become a turn."""
    found = problem(error, request_id_of(task))
    return TaskEnd(task.task_id, "failure", _event(task, "failure", error=found), found)


def cancelled(task: TaskRow) -> TaskEnd:
    """The end of a task because someone asked for it."""
    return TaskEnd(task.task_id, "cancelled", _event(task, "cancelled"))


def retry_of(task: TaskRow) -> NewTask:
    """A failed task once more, as a task of its own; the same for the same task. Raises Conflict for one that has not failed, or has
    nothing that could be run."""
    if seen(task) != "failure":
        raise Conflict("only a task that has failed can be tried again", task_status=seen(task))
    if "message" not in task.request:
        raise Conflict("there is nothing to run: the item of the batch was broken, or its session was deleted")
    return NewTask(
        tenant=task.tenant,
        task_id=derived_id("retry", task.tenant, task.task_id, prefix=task.task_id[:14]),
        session_id=task.session_id,
        agent_id=task.agent_id,
        request=task.request,
        max_attempts=task.max_attempts,
        lane=task.lane,
        retry_of=task.task_id,
        hook=task.hook,
    )


def derived_id(*parts: str, prefix: str) -> str:
    """An id that follows from its parts, in the form of common.contracts.query.new_turn_id behind the first 14 characters, `prefix`."""
    return prefix + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _event(task: TaskRow, status: TaskStatus, **more: Any) -> SessionEvent:
    where = {"batch_id": task.batch_id, "schedule_id": task.schedule_id}
    known = {name: value for name, value in where.items() if value is not None}
    return SessionEvent(_EVENTS[status], {"session_id": task.session_id, "task_id": task.task_id, "status": status, **known, **more})
