"""The stores that turns need, as protocols. `heavy.storage` implements them for PostgreSQL and SQLite; `heavy.turns.states` draws a
turn's life, `heavy.turns.rows` has what passes through.

`seq` numbers the turns of a session; a turn may run only when no earlier one of its session is active (FIFO) and no other one runs.

Timers stand in the database with the `seq` of the turn that armed them: a timer holds only while that is the session's last turn, so a
message cancels it without a write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import DependencyUnavailable, LoadsplitError, SessionBusy
from heavy.llm.stores import LedgerStore
from heavy.llm.types import Message
from heavy.tenants.audit import AuditStore
from heavy.tenants.stores import AccessStore
from heavy.turns.learned_routes import LearnedStore
from heavy.turns.rows import (
    Accepted,
    ArmTimer,
    Fence,
    Finish,
    NewTurn,
    Note,
    SessionEvent,
    SessionRow,
    SoughtSessions,
    StoredEvent,
    StoredMessage,
    TimerRow,
    TurnRow,
)
from heavy.turns.search import TurnSearch
from heavy.turns.webhooks import DeliveryStore, WebhookStore


class LeaseLost(LoadsplitError):
    """Another node has taken the turn over: this one must stop without a further effect."""

    code, status, title, retryable = "session_busy", 409, "The turn was taken over", True


class Outrun(LoadsplitError):
    """The session has gone on since: what was to follow its last turn has no place any more."""

    code, status, title, retryable = "session_busy", 409, "The session has gone on", False


class Busy(SessionBusy):
    """The session has an active turn and the caller asked not to wait; `extra["turn_id"]` names it."""


class DatabaseUnavailable(DependencyUnavailable):
    """The database is away, full or locked. Nothing was committed, or (after a lost connection) the same statement may be repeated."""


class SessionStore(Protocol):
    """Sessions and their messages. Raises DatabaseUnavailable when the database is away."""

    async def get(self, tenant: str, session_id: str) -> SessionRow | None:
        """The session, None when there is none for this tenant."""

    async def count(self) -> int:
        """Sessions of all tenants; may be an estimate on large tables."""

    async def messages(self, tenant: str, session_id: str, *, limit: int, before_seq: int | None = None) -> Sequence[StoredMessage]:
        """The last `limit` messages of turns whose seq is below `before_seq` (all without one), oldest first. Whole turns only:
        it may give more than `limit` so that the first turn is complete."""

    async def delete(self, tenant: str, session_id: str, *, idle_since: float | None = None) -> bool:
        """Erases the session, its turns, messages, events, timers, tasks and messages to webhooks; False when there was none. With
        `idle_since` (Unix seconds) only a session that nothing has happened to since, and that has no active turn."""

    async def note(self, note: Note) -> SessionRow | None:
        """Applies a note in one transaction; the session as it is afterwards. None, and nothing changed, when there is no such session or
        `note.statuses` or `note.before` does not hold. Repeating a note with a turn id changes nothing."""

    async def events(self, tenant: str, session_id: str, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """The events with ids above `after`, oldest first."""

    async def page(
        self, tenant: str, sought: SoughtSessions, *, before: tuple[float, str] | None = None, limit: int
    ) -> Sequence[SessionRow]:
        """Sessions, those that began last first; `before` is (created_at, session_id) of the last one of the page before."""

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
        of the session is active, else it does what `when_busy` says. An existing session of another agent is an InvalidRequest.
        Repeating it with the same turn id changes nothing and returns what is there; of a message that became part of another turn, that
        turn. Raises Outrun when `after_seq` does not hold, Busy for `reject`."""

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if it is the first active one of its session and no other one runs; None when it is not its time
        (or it has ended)."""

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims active turns whose lease has run out and which are first in their session: attempt + 1, running, this owner."""

    async def release(self, owner: str, turn_ids: Sequence[str]) -> None:
        """Gives up the leases that this owner holds on these turns: any node may take them over at once."""

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs the leases that this owner still holds on these turns, running or waiting; returns their ids. One statement for all."""

    async def cancel_requests(self, owner: str) -> Mapping[str, str]:
        """This owner's running turns whose end was asked for, by id, with the reason."""

    async def keyed(self, seconds: float, most: int) -> Sequence[tuple[str, str, str]]:
        """Tenant, id and fingerprint of the newest turns with an Idempotency-Key, none older than so many seconds."""

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

    async def postpone(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, error: Mapping[str, Any], delay_seconds: float
    ) -> SessionRow:
        """A running turn becomes accepted again, to begin no earlier than in `delay_seconds`, with one try more: it has no owner and is not
        active any more. Raises LeaseLost when the fence does not hold."""

    async def reopen(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> Accepted | None:
        """An accepted turn whose time has come waits (active again, leased to `owner`); None when there is no such turn."""

    async def busy(self, tenant: str, session_id: str) -> TurnRow | None:
        """The session's running turn, else the first one that waits; None when none is active."""

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

    async def cancel(
        self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None, reason: str = "cancelled"
    ) -> TurnRow | None:
        """A waiting or accepted turn, or one that awaits an approval, becomes cancelled; a running one gets cancel_requested (its owner
        ends it, with the first reason); an ended one stays as it is.
        Returns the turn as it is afterwards, None when unknown."""

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""

    async def known(self, tenant: str, session_id: str, ids: Sequence[str]) -> tuple[TurnRow, str | None] | None:
        """The turn of one of these ids, or the one of the session that has one of them for a further name; with the fingerprint of the
        request that came under it. None when there is none."""

    async def name(self, tenant: str, session_id: str, alias: str, turn_id: str, fingerprint: str | None) -> None:
        """Gives a turn of the session a further name. Repeating it changes nothing."""

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
    webhooks: WebhookStore
    deliveries: DeliveryStore
    access: AccessStore
    audit: AuditStore
    ledger: LedgerStore
    search: TurnSearch

    async def ping(self) -> float:
        """Seconds of one round trip. Raises DatabaseUnavailable."""

    async def aclose(self) -> None:
        """Closes connections. Never raises."""
