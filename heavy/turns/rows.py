"""The rows that pass between a turn's life and the database: sessions, turns, messages, events, timers. Plain values, no behaviour.

Times are Unix seconds (float).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from common.contracts.query import Usage
from heavy.llm.types import Message
from heavy.turns.states import TurnState

TimerKind = Literal["timer", "handoff"]
WhenBusy = Literal["enqueue", "reject", "merge"]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. `status` is ready, in_conversation, transferred or closed; `active` counts its turns that are waiting or running.

    `handoff` tells of the last hand-off to a human (heavy.turns.handoff), empty without one. `event_seq` is the id of its last event.
    """

    tenant: str
    session_id: str
    agent_id: str
    user_id: str | None
    status: str
    current_skill: str | None
    config_hash: str
    greeting: str
    profile: Mapping[str, Any]
    turn_seq: int
    active: int
    message_count: int
    usage: Usage
    created_at: float
    updated_at: float
    handoff: Mapping[str, Any] = field(default_factory=dict)
    event_seq: int = 0


@dataclass(frozen=True, slots=True)
class SoughtSessions:
    """Which sessions of a tenant are looked for: those that have these values, and that began in [since, until)."""

    user_id: str | None = None
    agent_id: str | None = None
    status: str | None = None
    since: float = 0.0
    until: float = 1e12


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to accept. `request` and `plan` are JSON objects that are only stored and read back.

    `user_message` becomes message 0, by `author` where that is not the user; None for a turn that nobody's words begin. With `after_seq`
    the turn is accepted only when that is the last turn of its session and none is active. `when_busy` is what to do where the session has
    an active turn: wait for it, give up, or become part of the last turn that waits, if that one merges, too.
    """

    tenant: str
    session_id: str
    turn_id: str
    agent_id: str
    user_id: str | None
    config_hash: str
    user_message: str | None
    request: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    author: str | None = None
    after_seq: int | None = None
    when_busy: WhenBusy = "enqueue"


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn. `reply` is the whole /query reply when done, `error` the problem when failed, `approval` what a person has to decide or has
    decided (heavy.turns.approval), `decision` the chosen action once something of it is committed (heavy.turns.decide): JSON objects.
    `tries` counts how often it was put off (`postpone`), `not_before` is when it may begin again; `error` of such a turn is why."""

    tenant: str
    session_id: str
    turn_id: str
    agent_id: str
    seq: int
    state: TurnState
    attempt: int
    owner: str | None
    lease_until: float
    cancel_requested: bool
    config_hash: str
    request: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    reply: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    usage: Usage
    created_at: float
    started_at: float | None
    finished_at: float | None
    approval: Mapping[str, Any] | None = None
    decision: Mapping[str, Any] | None = None
    tries: int = 0
    not_before: float = 0.0
    cancel_reason: str | None = None


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that reaches a session outside a query (common.contracts.session_events). `data` is a JSON object."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A session's event as it is kept. Ids count 1, 2, 3 … within a session, without gaps."""

    id: int
    type: str
    data: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """A timer to arm: it falls due `delay_seconds` after the write that arms it. `position` is its place in the workflow's list."""

    kind: TimerKind
    timer_id: str
    delay_seconds: float
    position: int = 0


@dataclass(frozen=True, slots=True)
class TimerRow:
    """An armed timer; a session has at most one of each kind. `seq` is the turn that armed it."""

    tenant: str
    session_id: str
    agent_id: str
    kind: TimerKind
    timer_id: str
    position: int
    seq: int
    due_at: float


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with its place: turns of a session by `turn_seq`, messages of a turn by `idx` from 0."""

    turn_seq: int
    turn_id: str
    idx: int
    message: Message
    at: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept` found: the session as it is now, the turn (running when it could start at once), whether each was new."""

    session: SessionRow
    turn: TurnRow
    new_session: bool
    new_turn: bool = False


@dataclass(frozen=True, slots=True)
class Fence:
    """Names a running turn and the attempt that may write to it."""

    tenant: str
    session_id: str
    turn_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Finish:
    """How a turn ends: state, reply or error, its cost, and what the session becomes. `messages` continue at index `first_idx`.

    `session_status` (with `current_skill`), `profile` and `handoff` replace what is there, None leaves it. `events` get the session's next
    ids; `timers` are armed with this turn's seq, each in the place of the one of its kind.
    """

    state: Literal["done", "failed", "cancelled"]
    first_idx: int
    messages: Sequence[Message] = ()
    reply: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    session_status: str | None = "ready"
    current_skill: str | None = None
    greeting: str = ""
    config_hash: str = ""
    profile: Mapping[str, Any] | None = None
    handoff: Mapping[str, Any] | None = None
    events: Sequence[SessionEvent] = ()
    timers: Sequence[ArmTimer] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happens to a session without a turn of the bot: what a human says, accepts, releases, decides.

    It applies only while the session's status is one of `statuses` (any when empty) and, with `before`, while its hand-off is still that
    one. With `messages` a turn `turn_id` is stored, done at
    once, with `reply`; without them none is. None leaves the status, the hand-off or the profile as it is.
    """

    tenant: str
    session_id: str
    turn_id: str = ""
    statuses: tuple[str, ...] = ()
    before: Mapping[str, Any] | None = None
    messages: Sequence[Message] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    reply: Mapping[str, Any] | None = None
    session_status: str | None = None
    handoff: Mapping[str, Any] | None = None
    events: Sequence[SessionEvent] = ()
