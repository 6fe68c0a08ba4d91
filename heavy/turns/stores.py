"""The stores that turns need, as protocols, and the rows that pass through them. `heavy.storage` implements them for PostgreSQL and SQLite.

A turn's life in the database:

    waiting ──claim──▶ running ──finish──▶ done | failed | cancelled
       └────────────────cancel──────────────────────────▶ cancelled

`seq` numbers the turns of a session; a turn may run only when no earlier one of its session is waiting or running (FIFO). `attempt` is the
fencing token: every claim raises it, every write of a running turn names it, and a write with an old one changes nothing (LeaseLost).
Times are Unix seconds (float). A lease is a time until which the owner is believed to live; owners renew it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import DependencyUnavailable, LoadsplitError
from heavy.llm.types import Message

TurnState = Literal["waiting", "running", "done", "failed", "cancelled"]
ACTIVE_STATES = ("waiting", "running")


class LeaseLost(LoadsplitError):
    """Another node has taken the turn over: this one must stop without a further effect."""

    code, status, title, retryable = "session_busy", 409, "The turn was taken over", True


class DatabaseUnavailable(DependencyUnavailable):
    """The database is away, full or locked. Nothing was committed, or (after a lost connection) the same statement may be repeated."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. `status` is ready, in_conversation, transferred or closed; `active` counts its turns that are waiting or running."""

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


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to accept. `request` and `plan` are JSON objects that are only stored and read back; `user_message` becomes message 0."""

    tenant: str
    session_id: str
    turn_id: str
    agent_id: str
    user_id: str | None
    config_hash: str
    user_message: str
    request: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn. `reply` is the whole /query reply when done, `error` the problem when failed (JSON objects)."""

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
    """How a turn ends: state, reply or error, its cost, and what the session becomes. `messages` continue at index `first_idx`."""

    state: Literal["done", "failed", "cancelled"]
    first_idx: int
    messages: Sequence[Message] = ()
    reply: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    session_status: str = "ready"
    current_skill: str | None = None
    greeting: str = ""
    config_hash: str = ""
    profile: Mapping[str, Any] | None = None


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
        """Erases the session, its turns and messages; False when there was none."""


class TurnStore(Protocol):
    """Turns. Every method is one transaction. Raises DatabaseUnavailable when the database is away, LeaseLost where said."""

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates the session if needed, the turn with the next seq and its message 0; claims it (running, attempt 1) when no other turn
        of the session is active, else it waits. An existing session of another agent is an InvalidRequest. Repeating it with the
        same turn id changes nothing and returns what is there."""

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if it is the first active one of its session; None when it is not its time (or it has ended)."""

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims active turns whose lease has run out and which are first in their session: attempt + 1, running, this owner."""

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs the leases that this owner still holds on these turns, running or waiting; returns their ids. One statement for all."""

    async def cancel_requests(self, owner: str) -> Sequence[str]:
        """The ids of this owner's running turns whose end was asked for."""

    async def step(self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage) -> None:
        """Commits messages of a running turn (and its usage so far). Raises LeaseLost when the fence does not hold."""

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session, in one statement. Raises LeaseLost when the fence does not hold."""

    async def cancel(self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None) -> TurnRow | None:
        """A waiting turn becomes cancelled; a running one gets cancel_requested (its owner ends it); an ended one stays as it is.
        Returns the turn as it is afterwards, None when unknown."""

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order: the transcript from which an attempt goes on."""

    async def record_rule_turns(self, entries: Sequence[JournalEntry]) -> int:
        """Stores rule-answered turns (state done, two messages each: user, assistant) in the order given; those already there are
        skipped. Creates sessions as needed. Returns how many were new. One statement for the batch."""


class Stores(Protocol):
    """An open database. `migrate` has been run by whoever opened it."""

    sessions: SessionStore
    turns: TurnStore

    async def ping(self) -> float:
        """Seconds of one round trip. Raises DatabaseUnavailable."""

    async def aclose(self) -> None:
        """Closes connections. Never raises."""
