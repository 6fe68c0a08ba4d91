"""The doors through which turns come: a message, a task, a timer, a person's decision. What is accepted here ends exactly once, on this
node or, when it dies, on the one that takes the turn over (`heavy.turns.lives`). It knows no HTTP and no SSE.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from common.contracts.idempotency import KEPT_SECONDS, Keyed
from common.contracts.query import OnBusy, Query
from common.contracts.ticket import Plan
from common.errors import NotFound, Overloaded
from common.hotstore.protocol import HotStore
from common.telemetry.tracing import current_span
from heavy.actions.compiled import CompiledWorkflow
from heavy.agent.steps import ApprovalDecision
from heavy.turns import approval, timers, window
from heavy.turns.agents import Agents
from heavy.turns.approval import yes_or_no
from heavy.turns.decide import asks_model
from heavy.turns.entrance import FULL, Entrance
from heavy.turns.lives import Lives
from heavy.turns.marks import Marks
from heavy.turns.notes import tell
from heavy.turns.owner import OwnedTurn, TurnOwner
from heavy.turns.rows import NewTurn, TimerRow, TurnRow
from heavy.turns.stores import Outrun, Stores

Settle = Callable[[str, str], Awaitable[None]]
INTERRUPTED = "interrupted by a newer message"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A turn that was asked for: it runs or waits here, or it is another node's or has ended (then its row). `replayed` says that an
    earlier request with the same Idempotency-Key had begun it; `config_hash` is the version that it runs on."""

    turn: OwnedTurn | TurnRow
    replayed: bool = False
    config_hash: str = ""


class Turns:
    """Accepts turns. All collaborators are arguments; `heavy.app` wires them."""

    def __init__(
        self,
        *,
        stores: Stores,
        hotstore: HotStore,
        owner: TurnOwner,
        agents: Agents,
        lives: Lives,
        settle: Settle,
        entrance: Entrance,
        marks: Marks | None = None,
    ) -> None:
        self._stores = stores
        self._hotstore = hotstore
        self._owner = owner
        self._agents = agents
        self._lives = lives
        self._settle = settle
        self.entrance = entrance
        self._marks = marks or Marks(hotstore, stores.turns)

    @property
    def room(self) -> int:
        """How many more turns this node takes now."""
        return self.entrance.room

    @property
    def draining(self) -> bool:
        """Whether this node takes no new turn any more."""
        return self.entrance.closed

    async def submit(
        self,
        query: Query,
        *,
        tenant: str,
        turn_id: str,
        plan: Plan | None,
        deadline: float | None,
        streaming: bool,
        request_id: str,
        on_busy: OnBusy = "enqueue",
        keyed: Keyed | None = None,
        placed: bool = False,
        config_hash: str | None = None,
    ) -> Submitted:
        """Accepts a message as a turn and starts it; `placed` says that the caller holds a place of the entrance for it, `config_hash` is
        the version that the rule tier has chosen.

        Raises Overloaded before anything is stored, InvalidRequest for an unknown agent, Busy where the caller does not want to wait,
        IdempotencyMismatch, DependencyUnavailable when the database is away.
        """
        agent = await self._agents.choose(query.agent_id, tenant, query.session_id, config_hash)
        if keyed is not None:
            earlier = await self._earlier(tenant, query.session_id, turn_id, keyed)
            await self._marks.show(tenant, keyed)
            if earlier is not None:
                return Submitted(self._owner.get(earlier.turn_id) or earlier, True, earlier.config_hash)
        if not placed and self.room <= 0:
            raise Overloaded(FULL, retry_after=1, **agent.busy)
        if agent.asks_persons and (answer := yes_or_no(query.message)) is not None:
            awaiting = await self._stores.turns.awaiting(tenant, query.session_id)
            if awaiting:
                decided = await self.decide(awaiting[-1], None, ApprovalDecision(answer, by="user"))
                if keyed is not None:
                    await self._stores.turns.name(tenant, query.session_id, turn_id, decided.turn_id, keyed.fingerprint)
                return Submitted(decided, config_hash=awaiting[-1].config_hash)
        if on_busy == "interrupt":
            await self._interrupt(tenant, query.session_id, turn_id)
        request = {"deadline": deadline, "streaming": streaming, "request_id": request_id, **_traced(current_span().traceparent)}
        if keyed is not None:
            request["fingerprint"] = keyed.fingerprint
        new = _new_turn(query, agent, tenant, turn_id, request, plan=plan, on_busy=on_busy)
        turn, ours = await self._accept(new, placed=placed)
        if keyed is not None and not ours and turn.turn_id == turn_id:
            row = await self._stores.turns.get(tenant, turn_id)
            keyed.refuse_other(row.request.get("fingerprint") if row else None)
        replayed = keyed is not None and not ours and turn.turn_id == turn_id
        return Submitted(turn, replayed, turn.config_hash if isinstance(turn, TurnRow) else new.config_hash)

    async def may_cost(self, query: Query, tenant: str, plan: Plan | None) -> bool:
        """Whether a model may be asked about a message. It is not where a human has the session, or a rule has chosen what needs none: who
        has spent the budget of the day still reaches a person."""
        session = await self._stores.sessions.get(tenant, query.session_id)
        if session is not None and session.status == "transferred":
            return False
        return query.form is not None or asks_model(await self._agents.choose(query.agent_id, tenant, query.session_id), session, plan)

    async def run_task(
        self,
        query: Query,
        *,
        tenant: str,
        turn_id: str,
        plan: Plan | None,
        max_attempts: int,
        request_id: str,
        traceparent: str = "",
        config_hash: str = "",
    ) -> OwnedTurn | TurnRow:
        """Runs a task as a turn with that id, or goes on with the turn that an earlier attempt has left. A failure that may pass puts the
        turn off (state accepted, `not_before`) as long as it has been tried less than `max_attempts` times.

        Raises as `submit`; Overloaded also where the turn cannot begin now.
        """
        agent = await self._agents.choose(query.agent_id, tenant, query.session_id, config_hash)
        if self.room <= 0:
            raise Overloaded(FULL, retry_after=1)
        request = {"deadline": None, "streaming": False, "request_id": request_id, "task": {"max_attempts": max_attempts}}
        request |= _traced(traceparent)
        turn, _ = await self._accept(_new_turn(query, agent, tenant, turn_id, request, plan=plan))
        if not isinstance(turn, TurnRow) or turn.state != "accepted":
            return turn
        opened = await self._stores.turns.reopen(tenant, turn_id, owner=self._owner.name, lease_seconds=self._owner.lease_seconds)
        if opened is None:
            raise Overloaded("the turn cannot begin now", retry_after=1)
        return self._lives.go_on(opened.turn)

    async def fire(self, timer: TimerRow, agent: CompiledWorkflow) -> bool:
        """Runs a due timer as a turn; False when it has no place any more: it is not in the file, or its session has gone on. Repeating it
        for the same timer runs nothing twice."""
        found = timers.named(agent.workflow, timer.timer_id)
        if found is None:
            return False
        position, declared = found
        note = timers.note(declared)
        new = NewTurn(
            tenant=timer.tenant,
            session_id=timer.session_id,
            turn_id=timers.turn_id(timer),
            agent_id=agent.workflow.agent_id,
            user_id=None,
            config_hash=agent.workflow.config_hash,
            user_message=note,
            author="timer",
            after_seq=timer.seq,
            request={"message": note or "", "timer": timers.request(declared, position)},
        )
        try:
            await self._accept(new)
        except Outrun:
            return False
        return True

    async def decide(self, row: TurnRow, call_id: str | None, decision: ApprovalDecision) -> OwnedTurn | TurnRow:
        """Stores a person's decision on one call of a turn that awaits an approval (on all its open calls without `call_id`); once all are
        decided the turn goes on here. Deciding the same twice changes nothing.

        Raises Conflict where there is nothing to decide or it was decided otherwise, NotFound for a call that is not asked about.
        """
        merged, complete = approval.merge(row, call_id, decision)
        if row.state != "awaiting_approval" or merged == row.approval:
            return self._owner.get(row.turn_id) or row
        here = complete and not self.draining
        decided = await self._stores.turns.decide(
            row.tenant,
            row.turn_id,
            before=row.approval or {},
            approval=merged,
            resume=complete,
            owner=self._owner.name if here else "",
            lease_seconds=self._owner.lease_seconds if here else 0,
            events=approval.events(row, merged),
        )
        if decided is None:  # somebody else was quicker: what they decided is judged as an earlier decision
            fresh = await self._stores.turns.get(row.tenant, row.turn_id)
            if fresh is None:
                raise NotFound("there is no such turn")
            return await self.decide(fresh, call_id, decision)
        await tell(self._hotstore, row.tenant, row.session_id)
        if (paused := self._owner.get(row.turn_id)) is not None:
            await paused.events.flush()  # what goes on must find all events of what has paused
        return self._lives.go_on(decided) if here else decided

    def resume(self, row: TurnRow) -> OwnedTurn:
        """Goes on with a turn that was taken over."""
        return self._lives.go_on(row)

    async def drain(self, seconds: float) -> None:
        """Takes no new turn, and ends or gives up the running ones within about so many seconds."""
        self.entrance.close()
        await self._lives.leave(seconds)

    async def _accept(self, new: NewTurn, *, placed: bool = False) -> tuple[OwnedTurn | TurnRow, bool]:
        """The turn, and whether it is new."""
        tenant, session_id, asked_at = new.tenant, new.session_id, time.monotonic()
        with contextlib.nullcontext() if placed else self.entrance.taken():
            peeked, _ = await asyncio.gather(window.peek(self._hotstore, tenant, session_id), self._settle(tenant, session_id))
            accepted = await self._stores.turns.accept(new, owner=self._owner.name, lease_seconds=self._owner.lease_seconds)
            existing = self._owner.get(accepted.turn.turn_id)
            if existing is not None or not accepted.new_turn:
                return existing or accepted.turn, False  # it came twice: one run, both readers follow it
            return self._lives.begin(accepted, peeked, asked_at), True

    async def _earlier(self, tenant: str, session_id: str, turn_id: str, keyed: Keyed) -> TurnRow | None:
        """What an earlier request with this key has begun within the last day. Raises IdempotencyMismatch."""
        await self._settle(tenant, session_id)
        found = await self._stores.turns.known(tenant, session_id, list({turn_id, *keyed.ids}))
        if found is None:
            return None
        row, fingerprint = found
        if row.turn_id != turn_id and row.created_at < time.time() - KEPT_SECONDS:
            return None
        keyed.refuse_other(fingerprint)
        return row

    async def _interrupt(self, tenant: str, session_id: str, turn_id: str) -> None:
        """Asks the session's running turn to end; what waits goes on waiting."""
        busy = await self._stores.turns.busy(tenant, session_id)
        if busy is not None and busy.state == "running" and busy.turn_id != turn_id:
            await self._stores.turns.cancel(tenant, busy.turn_id, reason=INTERRUPTED)
            await self._owner.cancel_anywhere(busy.turn_id, INTERRUPTED)


def _new_turn(
    query: Query,
    agent: CompiledWorkflow,
    tenant: str,
    turn_id: str,
    request: dict[str, Any],
    *,
    plan: Plan | None = None,
    on_busy: OnBusy = "enqueue",
) -> NewTurn:
    """A turn that a user's message begins."""
    return NewTurn(
        tenant=tenant,
        session_id=query.session_id,
        turn_id=turn_id,
        agent_id=agent.workflow.agent_id,
        user_id=query.user_id,
        config_hash=agent.workflow.config_hash,
        user_message=query.message,
        request={"message": query.message, "user_id": query.user_id, "context": dict(query.context), **_form(query), **request},
        plan=asdict(plan) if plan else None,
        when_busy="enqueue" if on_busy == "interrupt" else on_busy,
    )


def _traced(traceparent: str) -> dict[str, str]:
    """What makes later attempts, on whichever node, part of the request's trace."""
    return {"traceparent": traceparent} if traceparent else {}


def _form(query: Query) -> dict[str, Any]:
    return {} if query.form is None else {"form": query.form}
