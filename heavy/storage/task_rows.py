"""Rows of `tasks`, `batches` and `schedules` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heavy.jobs.rows import BatchRow, Hook, NewSchedule, NewTask, ScheduleRow, TaskEnd, TaskRow, TaskStatus, TaskTurn
from heavy.storage.rows import Row, from_json, text, to_json
from heavy.storage.webhook_rows import names_of

# What `new_values` gives, in the order of the parameters of an insert.
NEW_COLUMNS = (
    "tenant", "task_id", "session_id", "agent_id", "lane", "status", "request", "error", "run_at", "delay", "max_attempts", "batch_id",
    "position", "schedule_id", "retry_of", "webhook_id", "webhook_events", "fingerprint",
)  # fmt: skip

# A task with its turn, as `viewed_of` reads it: for clients, and for settling.
TURN_COLUMNS = """t.*, u.state AS turn_state, u.reply AS turn_reply, u.error AS turn_error, u.not_before AS turn_not_before,
    u.started_at AS turn_started_at, u.finished_at AS turn_finished_at"""
VIEW = f"SELECT {TURN_COLUMNS} FROM tasks t LEFT JOIN turns u ON u.tenant = t.tenant AND u.turn_id = t.task_id"


# A task is seen by its turn while its row lags behind (heavy.jobs.tasks.seen): these turns' tasks are still running in their rows.
_LAGGING = {"pending": "accepted", "success": "done", "failure": "failed", "cancelled": "cancelled"}


def page_of(
    mark: Callable[[int], str],
    tenant: str,
    status: TaskStatus | None,
    session_id: str | None,
    before: tuple[float, str] | None,
    limit: int,
) -> tuple[str, list[Any]]:
    """The statement of a page of tasks with their turns, the newest first, and its values. `mark` writes the n-th parameter.

    Each part reads an index in its order; a status stands in the text, so that a partial index is seen to serve.
    """
    values: list[Any] = [tenant, limit]

    def put(value: Any) -> str:
        values.append(value)
        return mark(len(values))

    where = [f"t.tenant = {mark(1)}"]
    if session_id is not None:
        where.append(f"t.session_id = {put(session_id)}")
    if before is not None:
        where.append(f"(t.created_at, t.task_id) < ({put(before[0])}, {put(before[1])})")
    others = " AND t.status <> 'success'"  # what SQLite must read to use the index of those
    running = f" AND t.status = 'running'{others}"
    parts = [""]
    if status == "running":
        parts = [f"{running} AND (u.state IS NULL OR u.state IN ('waiting', 'running', 'awaiting_approval'))"]
    elif status is not None:
        parts = [f" AND t.status = '{status}'{others if status != 'success' else ''}", f"{running} AND u.state = '{_LAGGING[status]}'"]
    end = f"ORDER BY {{}}created_at DESC, {{}}task_id DESC LIMIT {mark(2)}"
    selects = [f"SELECT * FROM ({VIEW} WHERE {' AND '.join(where)}{part} {end.format('t.', 't.')}) AS page" for part in parts]
    return f"{' UNION ALL '.join(selects)} {end.format('', '')}", values


def task_of(row: Row, turn: TaskTurn | None = None) -> TaskRow:
    """A row of `tasks`."""
    return TaskRow(
        tenant=row["tenant"],
        task_id=row["task_id"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        lane=row["lane"],
        status=row["status"],
        request=from_json(row["request"]),
        error=from_json(row["error"]),
        run_at=row["run_at"],
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        batch_id=row["batch_id"],
        position=row["position"],
        schedule_id=row["schedule_id"],
        retry_of=row["retry_of"],
        hook=_hook_of(row),
        fingerprint=row["fingerprint"],
        owner=row["owner"],
        lease_until=row["lease_until"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        turn=turn,
    )


def viewed_of(row: Row) -> TaskRow:
    """A row of VIEW."""
    state = row["turn_state"]
    if state is None:
        return task_of(row)
    reply, error = from_json(row["turn_reply"]), from_json(row["turn_error"])
    return task_of(row, TaskTurn(state, reply, error, row["turn_not_before"], row["turn_started_at"], row["turn_finished_at"]))


def new_values(task: NewTask, hook: Hook | None = None) -> tuple[Any, ...]:
    """The values of NEW_COLUMNS, with the batch's hook where it has one. A task that comes with an error has ended."""
    status = "pending" if task.error is None else "failure"
    return (
        task.tenant, task.task_id, task.session_id, task.agent_id, task.lane, status, to_json(task.request), to_json(task.error),
        task.run_at, task.delay_seconds, task.max_attempts, task.batch_id, task.position, task.schedule_id, task.retry_of,
        *hook_values(hook or task.hook), task.fingerprint,
    )  # fmt: skip


def end_values(end: TaskEnd) -> tuple[str, str, str | None, str, str | None]:
    """Id, status, error, and type and data of the event."""
    return end.task_id, end.status, to_json(end.error), end.event.type, to_json(end.event.data)


def batch_of(row: Row, counts: Sequence[tuple[TaskStatus, int]] | None = None) -> BatchRow:
    """A row of `batches`."""
    found: Mapping[TaskStatus, int] | None = None if counts is None else dict(counts)
    return BatchRow(
        tenant=row["tenant"],
        batch_id=row["batch_id"],
        total=row["total"],
        rejected=row["rejected"],
        open=row["open"],
        fingerprint=row["fingerprint"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        counts=found,
    )


def schedule_of(row: Row) -> ScheduleRow:
    """A row of `schedules`."""
    return ScheduleRow(
        tenant=row["tenant"],
        schedule_id=row["schedule_id"],
        cron=row["cron"],
        timezone=row["timezone"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        request=from_json(row["request"]),
        max_attempts=row["max_attempts"],
        hook=_hook_of(row),
        enabled=bool(row["enabled"]),
        next_at=row["next_at"],
        last_at=row["last_at"],
        created_at=row["created_at"],
    )


def schedule_values(schedule: NewSchedule) -> tuple[Any, ...]:
    """The values of a new row, in the order of the table, without `enabled`, the ticks and the time."""
    head = (schedule.tenant, schedule.schedule_id, text(schedule.cron), schedule.timezone, schedule.session_id, schedule.agent_id)
    return (*head, to_json(schedule.request), schedule.max_attempts, *hook_values(schedule.hook))


def hook_values(hook: Hook | None) -> tuple[str | None, str | None]:
    """The columns of a hook."""
    return (hook.webhook_id, names_of(hook.events)) if hook else (None, None)


def _hook_of(row: Row) -> Hook | None:
    return None if row["webhook_id"] is None else Hook(row["webhook_id"], tuple(row["webhook_events"].split()))
