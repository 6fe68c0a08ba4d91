"""The rows that pass between jobs and the database: tasks, batches, schedules. Plain values, no behaviour. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heavy.turns.rows import SessionEvent
from heavy.turns.states import TurnState

Lane = Literal["task", "batch"]
TaskStatus = Literal["pending", "running", "success", "failure", "cancelled"]

LANES: tuple[Lane, ...] = ("task", "batch")
STATUSES: tuple[TaskStatus, ...] = ("pending", "running", "success", "failure", "cancelled")
OPEN: frozenset[TaskStatus] = frozenset({"pending", "running"})
PENDING: frozenset[TaskStatus] = frozenset({"pending"})


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook of a request, which hears of the tasks that it makes, and of which of their ends."""

    webhook_id: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to store. It is due at `run_at`, or that many seconds from now, and never earlier than now.

    `request` is the query but its session and agent, as JSON. One with an `error` is a failure from the start (a broken item of a batch).
    `fingerprint` tells the body that it came with from another one under the same id.
    """

    tenant: str
    task_id: str
    session_id: str
    agent_id: str
    request: Mapping[str, Any]
    max_attempts: int
    lane: Lane = "task"
    run_at: float | None = None
    delay_seconds: float = 0.0
    batch_id: str | None = None
    position: int | None = None
    schedule_id: str | None = None
    retry_of: str | None = None
    hook: Hook | None = None
    fingerprint: str = ""
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TaskTurn:
    """What there is of the turn that a task has become. `not_before` is when a turn that was put off may begin again."""

    state: TurnState
    reply: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    not_before: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task. `attempts` counts the tries that were begun. `turn` is there in what is read for clients and for settling, once it exists."""

    tenant: str
    task_id: str
    session_id: str
    agent_id: str
    lane: Lane
    status: TaskStatus
    request: Mapping[str, Any]
    error: Mapping[str, Any] | None
    run_at: float
    attempts: int
    max_attempts: int
    cancel_requested: bool
    batch_id: str | None
    position: int | None
    schedule_id: str | None
    retry_of: str | None
    hook: Hook | None
    fingerprint: str
    owner: str | None
    lease_until: float
    created_at: float
    started_at: float | None
    finished_at: float | None
    turn: TaskTurn | None = None


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ends, and what the watchers of its session are told of it."""

    task_id: str
    status: Literal["success", "failure", "cancelled"]
    event: SessionEvent
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to store with its tasks, which carry its hook."""

    tenant: str
    batch_id: str
    hook: Hook | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch. `rejected` items were broken; `open` ones have not ended; `counts` are its tasks by status, where they were asked for."""

    tenant: str
    batch_id: str
    total: int
    rejected: int
    open: int
    fingerprint: str
    created_at: float
    finished_at: float | None
    counts: Mapping[TaskStatus, int] | None = None


@dataclass(frozen=True, slots=True)
class LaneStats:
    """How one lane is doing: due tasks that wait (counted up to a limit), those that run, and the age in seconds of the oldest due one."""

    waiting: int
    running: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to store; `next_at` is its first tick."""

    tenant: str
    schedule_id: str
    cron: str
    timezone: str
    session_id: str
    agent_id: str
    request: Mapping[str, Any]
    max_attempts: int
    next_at: float
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule. `next_at` is the tick to come (while it is enabled), `last_at` the last one that made a task."""

    tenant: str
    schedule_id: str
    cron: str
    timezone: str
    session_id: str
    agent_id: str
    request: Mapping[str, Any]
    max_attempts: int
    hook: Hook | None
    enabled: bool
    next_at: float
    last_at: float | None
    created_at: float
