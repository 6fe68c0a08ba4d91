"""The life of one turn: admission, lease, load, decide, act, commit. It knows no HTTP and no SSE: readers follow the turn's event log.

A turn is accepted by one database commit; from then on it ends exactly once, here or, when this process dies, on the node that takes it
over. Every step of an agent run is committed before the next begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.errors import DeadlineExceeded, Internal, InvalidRequest, LoadsplitError, NotFound, Overloaded
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.actions.compiled import CompiledWorkflow
from heavy.agent.steps import ApprovalDecision
from heavy.turns import approval, timers, window
from heavy.turns.agents import Agents
from heavy.turns.approval import yes_or_no
from heavy.turns.log import TurnLog
from heavy.turns.notes import tell
from heavy.turns.owner import LEASE_SECONDS, OwnedTurn, TurnOwner
from heavy.turns.rows import Accepted, NewTurn, TimerRow, TurnRow
from heavy.turns.run import Run, RunParts
from heavy.turns.stores import DatabaseUnavailable, LeaseLost, Outrun, Stores

WAIT_POLL_SECONDS = 1.0
log = logging.getLogger(__name__)

Settle = Callable[[str, str], Awaitable[None]]


class Turns:
    """Accepts turns and runs them. All collaborators are arguments; `heavy.app` wires them."""

    def __init__(
        self,
        *,
        stores: Stores,
        hotstore: HotStore,
        owner: TurnOwner,
        agents: Agents,
        parts: RunParts,
        settle: Settle,
        metrics: Metrics,
        max_inflight: int,
    ) -> None:
        self._stores = stores
        self._hotstore = hotstore
        self._owner = owner
        self._agents = agents
        self._parts = parts
        self._settle = settle
        self._metrics = metrics
        self._max_inflight = max_inflight
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = 0
        self.draining = False

    async def submit(
        self, query: Query, *, tenant: str, turn_id: str, plan: Plan | None, deadline: float | None, streaming: bool, request_id: str
    ) -> OwnedTurn | TurnRow:
        """Accepts a turn and starts it. Returns the turn when it runs or waits here, or its row when another node has it already.

        Raises Overloaded before anything is stored, InvalidRequest for an unknown agent, DependencyUnavailable when the database is away.
        """
        agent = self._agents.choose(query.agent_id)
        if self.room <= 0:
            raise Overloaded("this node takes no further turn now", retry_after=1, **_busy(agent))
        if agent.asks_persons and (answer := yes_or_no(query.message)) is not None:
            awaiting = await self._stores.turns.awaiting(tenant, query.session_id)
            if awaiting:
                return await self.decide(awaiting[-1], None, ApprovalDecision(answer, by="user"))
        request = {
            "message": query.message,
            "user_id": query.user_id,
            "context": dict(query.context),
            "deadline": deadline,
            "streaming": streaming,
            "request_id": request_id,
        }
        new = NewTurn(
            tenant=tenant,
            session_id=query.session_id,
            turn_id=turn_id,
            agent_id=agent.workflow.agent_id,
            user_id=query.user_id,
            config_hash=agent.workflow.config_hash,
            user_message=query.message,
            request=request,
            plan=asdict(plan) if plan else None,
        )
        return await self._accept(new)

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
            lease_seconds=LEASE_SECONDS if here else 0,
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
        return self.resume(decided) if here else decided

    async def _accept(self, new: NewTurn) -> OwnedTurn | TurnRow:
        self._accepting += 1
        tenant, session_id, turn_id = new.tenant, new.session_id, new.turn_id
        try:
            peeked, _ = await asyncio.gather(window.peek(self._hotstore, tenant, session_id), self._settle(tenant, session_id))
            accepted = await self._stores.turns.accept(new, owner=self._owner.name, lease_seconds=LEASE_SECONDS)
        finally:
            self._accepting -= 1
        existing = self._owner.get(turn_id)
        if existing is not None or not accepted.new_turn:
            return existing or accepted.turn  # nginx sent the request twice: one run, both readers follow it
        turn = self._own(accepted.turn, TurnLog(self._hotstore, turn_id))
        self._start(turn, self._live(turn, accepted, peeked))
        return turn

    @property
    def room(self) -> int:
        """How many more turns this node takes now."""
        return 0 if self.draining else self._max_inflight - len(self._owner) - self._accepting

    def resume(self, row: TurnRow) -> OwnedTurn:
        """Goes on with a turn that was taken over from a dead node (or from this one, when it was frozen past its lease), or whose calls a
        person has decided on."""
        turn = self._own(row, TurnLog(self._hotstore, row.turn_id))
        self._start(turn, self._live_again(turn, row))
        return turn

    async def drain(self, seconds: float) -> None:
        """Takes no new turn and waits for the running ones. What has not ended by then is left to its lease: another node goes on."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    async def _earlier_events(self, turn_id: str) -> Sequence[bytes]:
        try:
            return await self._hotstore.log_read(keys.events(turn_id), 0)
        except HotStoreUnavailable:
            return ()

    def _own(self, row: TurnRow, events: TurnLog) -> OwnedTurn:
        turn = OwnedTurn(row.tenant, row.session_id, row.turn_id, events, seq=row.seq)
        self._owner.add(turn)
        return turn

    def _start(self, turn: OwnedTurn, life: Coroutine[Any, Any, None]) -> None:
        turn.task = asyncio.create_task(life, name=f"turn {turn.turn_id}")
        self._tasks.add(turn.task)
        turn.task.add_done_callback(self._tasks.discard)

    async def _live_again(self, turn: OwnedTurn, row: TurnRow) -> None:
        session = None
        try:
            turn.events.continue_from(await self._earlier_events(row.turn_id))
            session = await self._stores.sessions.get(row.tenant, row.session_id)
        except DatabaseUnavailable as e:
            log.warning("turn %s is left to its lease: %s", row.turn_id, e.detail)
        finally:
            if session is None:  # deleted in the meantime, or out of reach now
                turn.events.abandon()
                self._owner.remove(turn)
        if session is not None:
            await self._live(turn, Accepted(session, row, False), None)

    async def _live(self, turn: OwnedTurn, accepted: Accepted, peeked: bytes | None) -> None:
        """From the accepted row to the end of the turn, whatever happens."""
        row, started = accepted.turn, time.monotonic()
        request_id = str(row.request.get("request_id", ""))
        others = True
        self._metrics.turns_inflight.inc()
        try:
            row, waited = await self._await_turn(turn, row)
            session = accepted.session
            if waited:
                session = await self._stores.sessions.get(turn.tenant, turn.session_id) or session
                peeked = await window.peek(self._hotstore, turn.tenant, turn.session_id)
            if row.cancel_requested and turn.cancelled is None:
                turn.cancelled = "cancelled"
            run = Run(self._parts, self._agents.of_turn(row.agent_id), session, row, turn.events)
            others = await self._run(turn, run, peeked, request_id)
            if run.state != "awaiting_approval":
                self._metrics.turns_total.labels(run.state).inc()
        except (LeaseLost, asyncio.CancelledError) as e:
            # another node has the turn, or this one shuts down: the row stays as it is and the lease decides
            if turn.lost or (isinstance(e, LeaseLost) and turn.error is None):
                self._metrics.lease_lost_total.inc()
            log.debug("turn %s is not ended here", turn.turn_id)
        except DatabaseUnavailable as e:
            log.error("turn %s could not be committed: %s", turn.turn_id, e.detail)
            turn.error = e
        finally:
            turn.events.abandon()  # however it came here: readers never wait for a turn that has no run
            self._metrics.turns_inflight.dec()
            self._metrics.turn_seconds.observe(time.monotonic() - started)
            try:
                await self._owner.turn_ended(turn, others)
                await turn.events.flush()  # until then readers find the events here
            finally:
                self._owner.remove(turn)

    async def _run(self, turn: OwnedTurn, run: Run, peeked: bytes | None, request_id: str) -> bool:
        """Runs and ends the turn; every end but the good one becomes an event here. Returns whether other turns of the session wait."""
        try:
            turn.running = True
            if turn.cancelled:
                return await run.cancel(turn.cancelled)
            if not self._agents.serves(run.agent_id):
                raise InvalidRequest(f"there is no agent {run.agent_id!r} here any more", field="agent_id")
            async with asyncio.timeout_at(_loop_time(run.deadline)):
                return await run.go(peeked)
        except TimeoutError:
            return await run.fail(DeadlineExceeded("the turn did not end before its deadline"), request_id)
        except asyncio.CancelledError:
            if not turn.cancelled or turn.lost:
                raise
            return await run.cancel(turn.cancelled)
        except (LeaseLost, DatabaseUnavailable):
            raise
        except LoadsplitError as e:
            return await run.fail(e, request_id)
        except Exception:  # the last line of defence: whatever broke, the turn ends with a typed error and the log has the cause
            log.exception("turn %s failed", turn.turn_id, extra={"request_id": request_id})
            return await run.fail(Internal("the turn failed; the log has the cause under the request id"), request_id)

    async def _await_turn(self, turn: OwnedTurn, row: TurnRow) -> tuple[TurnRow, bool]:
        """Waits until all earlier turns of the session have ended (FIFO). Returns the running row and whether it had to wait."""
        if row.state == "running":
            return row, False
        deadline = row.request.get("deadline")
        async with self._owner.waiting(turn):
            while True:
                turn.wake.clear()
                if turn.cancelled or self._owner.is_first(turn):
                    claimed = await self._stores.turns.claim(row.tenant, row.turn_id, owner=self._owner.name, lease_seconds=LEASE_SECONDS)
                    if claimed is not None:
                        return claimed, True
                    fresh = await self._stores.turns.get(row.tenant, row.turn_id)
                    if fresh is None or fresh.finished_at is not None:
                        raise LeaseLost("the turn has ended elsewhere")
                left = math.inf if deadline is None else deadline - time.time()
                if left <= 0:
                    turn.error = DeadlineExceeded("the session was busy until the deadline")
                    await self._stores.turns.cancel(row.tenant, row.turn_id)
                    raise LeaseLost("the turn was given up while it waited")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(WAIT_POLL_SECONDS, left)):
                        await turn.wake.wait()


def _busy(agent: CompiledWorkflow) -> dict[str, str]:
    """What a chat front end may show when the agent takes no message now."""
    return {"message": agent.workflow.busy_message} if agent.workflow.busy_message else {}


def _loop_time(deadline: float | None) -> float | None:
    return None if deadline is None else asyncio.get_running_loop().time() + (deadline - time.time())
