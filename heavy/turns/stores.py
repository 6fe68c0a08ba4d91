"""The stores that turns need, as protocols, and the rows that pass through them. `heavy.storage` implements them for PostgreSQL and SQLite.

A turn's life in the database:

    waiting ──claim──▶ running ──finish──▶ done | failed | cancelled
       ▲  └────────────cancel───────────────────────────▶ cancelled
       │               │ pause                                ▲
       └──decide── awaiting_approval ──────cancel─────────────┘

`seq` numbers the turns of a session; a turn may run only when no earlier one of its session is waiting or running (FIFO) and no other one
runs. A turn that awaits an approval holds nobody up. `attempt` is the fencing token: every claim raises it, every write of a running turn
names it, and a write with an old one changes nothing (LeaseLost). Times are Unix seconds (float). A lease is a time until which the owner
is believed to live; owners renew it.

Timers stand in the database with the `seq` of the turn that armed them: a timer holds only while that is the session's last turn, so a
message cancels it without a write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import DependencyUnavailable, LoadsplitError
from heavy.llm.types import Message
from heavy.turns.learned_routes import LearnedStore

TurnState = Literal["waiting", "running", "awaiting_approval", "done", "failed", "cancelled"]
TimerKind = Literal["timer", "handoff"]
ACTIVE_STATES = ("waiting", "running")


class LeaseLost(LoadsplitError):
    """Another node has taken the turn over: this one must stop without a further effect."""

    code, status, title, retryable = "session_busy", 409, "The turn was taken over", True


class Outrun(LoadsplitError):
    """The session has gone on since: what was to follow its last turn has no place any more."""

    code, status, title, retryable = "session_busy", 409, "The session has gone on", False


class DatabaseUnavailable(DependencyUnavailable):
    """The database is away, full or locked. Nothing was committed, or (after a lost connection) the same statement may be repeated."""


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
class NewTurn:
    """A turn to accept. `request` and `plan` are JSON objects that are only stored and read back.

    `user_message` becomes message 0, by `author` where that is not the user; None for a turn that nobody's words begin. With `after_seq`
    the turn is accepted only when that is the last turn of its session and none is active.
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


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn. `reply` is the whole /query reply when done, `error` the problem when failed, `approval` what a person has to decide or has
    decided (heavy.turns.approval), `decision` the chosen action once something of it is committed (heavy.turns.decide): JSON objects."""

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


class SessionStore(Protocol):
    """Sessions and their messages. Raises DatabaseUnavailable when the database is away."""

    async def get(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session, None when there is none for this tenant."""

    async def count(self) -> int:
        """Sessions of all tenants; may be an estimate on large tables."""

    async def messages(self, tenant: str, session_id: str, *, limit: int, before_seq: int | None = None) -> Sequence[StoredMessage]:
        """The last `limit` messages of turns whose seq is below `before_seq` (all without one), oldest first. Whole turns only:
        it may give more than `limit` so that the first turn is complete."""

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Erases the session, its turns, messages, events and timers; False when there was none."""

    async def note(self, note: Note) -> SessionRow | None:
        """Applies a note in one transaction; the session as it is afterwards. None, and nothing changed, when there is no such session or
        `note.statuses` or `note.before` does not hold. Repeating a note with a turn id changes nothing."""

    async def events(self, tenant: str, session_id: str, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """The events with ids above `after`, oldest first."""

    async def transferred(self, tenant: str, *, limit: int) -> Sequence[SessionRow]:
        """Sessions that are with a human or wait for one, the longest waiting first."""


class TimerStore(Protocol):
    """Armed timers. Raises DatabaseUnavailable when the database is away."""

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[TimerRow]:
        """Timers that are due, the longest overdue first. Each is given to one caller only for `hold_seconds`; then, when nobody has
        called `done`, it is due again. `due_at` in the rows is the time that they were armed for."""

    async def done(self, timer: TimerRow) -> None:
        """Forgets a timer, unless it was armed anew since (another seq or timer id)."""


class TurnStore(Protocol):
    """Turns. Every method is one transaction. Raises DatabaseUnavailable when the database is away, LeaseLost where said."""

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates the session if needed, the turn with the next seq and its message 0; claims it (running, attempt 1) when no other turn
        of the session is active, else it waits. An existing session of another agent is an InvalidRequest. Repeating it with the
        same turn id changes nothing and returns what is there. Raises Outrun when `after_seq` does not hold."""

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if it is the first active one of its session and no other one runs; None when it is not its time
        (or it has ended)."""

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims active turns whose lease has run out and which are first in their session: attempt + 1, running, this owner."""

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs the leases that this owner still holds on these turns, running or waiting; returns their ids. One statement for all."""

    async def cancel_requests(self, owner: str) -> Sequence[str]:
        """The ids of this owner's running turns whose end was asked for."""

    async def step(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, decision: Mapping[str, Any] | None = None
    ) -> None:
        """Commits messages of a running turn, its usage so far, and, once it is given, which action was chosen. Raises LeaseLost when the
        fence does not hold."""

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session, in one statement. Raises LeaseLost when the fence does not hold."""

    async def pause(
        self,
        fence: Fence,
        *,
        first_idx: int,
        messages: Sequence[Message],
        usage: Usage,
        approval: Mapping[str, Any],
        reply: Mapping[str, Any],
        events: Sequence[SessionEvent],
    ) -> SessionRow:
        """A running turn awaits an approval: it has no owner and is not active any more. `reply` is what the caller is told for now.
        Raises LeaseLost when the fence does not hold."""

    async def awaiting(self, tenant: str, session_id: str) -> Sequence[TurnRow]:
        """The turns of a session that await an approval, the oldest first."""

    async def decide(
        self,
        tenant: str,
        turn_id: str,
        *,
        before: Mapping[str, Any],
        approval: Mapping[str, Any],
        resume: bool,
        owner: str,
        lease_seconds: float,
        events: Sequence[SessionEvent],
    ) -> TurnRow | None:
        """Stores a decision on a turn that awaits one, if its approval is still `before`; else None. With `resume` the turn becomes waiting
        (active again, leased to `owner`), and its session gets the events."""

    async def cancel(self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None) -> TurnRow | None:
        """A waiting turn, or one that awaits an approval, becomes cancelled; a running one gets cancel_requested (its owner ends it);
        an ended one stays as it is.
        Returns the turn as it is afterwards, None when unknown."""

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order: the transcript from which an attempt goes on."""

    async def record_rule_turns(self, entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer] = {}) -> int:
        """Stores rule-answered turns (state done, two messages each: user, assistant) in the order given; those already there are
        skipped. Creates sessions as needed, and arms the timer of their agent (by agent id), due that long after the answer. Returns how
        many were new. One statement for the batch."""


class Stores(Protocol):
    """An open database. `migrate` has been run by whoever opened it."""

    sessions: SessionStore
    turns: TurnStore
    timers: TimerStore
    learned: LearnedStore

    async def ping(self) -> float:
        """Seconds of one round trip. Raises DatabaseUnavailable."""

    async def aclose(self) -> None:
        """Closes connections. Never raises."""
