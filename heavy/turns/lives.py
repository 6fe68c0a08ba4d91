"""The turns that live in this process: each from its accepted row to its end, whatever happens, and how they leave a process that ends.

It knows neither who asks nor what a turn does (`heavy.turns.run`); readers follow the turn's event log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from common.errors import DeadlineExceeded, DependencyUnavailable, Internal, InvalidRequest, LoadsplitError
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.bound import bind
from common.telemetry.metrics import Metrics
from common.telemetry.tracing import NO_TRACING, Tracing
from common.workflow.schema import Workflow
from heavy.turns import lines, window
from heavy.turns.agents import Agents
from heavy.turns.log import TurnLog
from heavy.turns.owner import OwnedTurn, TurnOwner
from heavy.turns.pace import FirstWord
from heavy.turns.rows import Accepted, TurnRow
from heavy.turns.run import LeftBehind, Run, RunParts
from heavy.turns.states import TERMINAL
from heavy.turns.stores import DatabaseUnavailable, LeaseLost, Stores

WAIT_POLL_SECONDS = 1.0
# Of the time that a process has to end: what turns get to end by themselves, and what they get then to come to the end of a step.
TO_END, TO_STEP = 0.5, 0.25
LAST_SECONDS = 2.0
log = logging.getLogger(__name__)


class Lives:
    """Starts turns and sees them through. `heavy.app` wires the collaborators."""

    def __init__(
        self,
        *,
        stores: Stores,
        hotstore: HotStore,
        owner: TurnOwner,
        agents: Agents,
        parts: RunParts,
        metrics: Metrics,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._stores = stores
        self._hotstore = hotstore
        self._owner = owner
        self._agents = agents
        self._parts = parts
        self._metrics = metrics
        self._tracing = tracing
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.Task[None] | None = None

    def begin(self, accepted: Accepted, peeked: bytes | None, asked_at: float) -> OwnedTurn:
        """Starts a turn that was accepted for this process, for which it was asked at that monotonic time. `peeked` is its session's hot
        window, if there is one."""
        turn = self._own(accepted.turn)
        turn.asked_at = asked_at
        return self._start(turn, self._live(turn, accepted, peeked))

    def go_on(self, row: TurnRow) -> OwnedTurn:
        """Goes on with a turn that has had an attempt: taken over from a dead node (or from this one, when it was frozen past its lease),
        decided on by a person, or tried again."""
        turn = self._own(row)
        return self._start(turn, self._live_again(turn, row))

    async def leave(self, seconds: float) -> None:
        """Ends all turns here within about so many seconds, because the process ends. What waits goes to other nodes at once, what runs
        gets half of the time to end, then it leaves at the end of a step, at last in the middle of one. Who reads a turn here still can."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(seconds), name="turns leave")
        await asyncio.shield(self._leaving)

    async def _leave(self, seconds: float) -> None:
        for turn in self._owner.all():
            if not turn.running and turn.task is not None:
                turn.task.cancel()
        await self._wait(seconds * TO_END)
        for turn in self._owner.all():
            turn.leaving = True
        await self._wait(seconds * TO_STEP)
        for task in list(self._tasks):
            task.cancel()
        await self._wait(LAST_SECONDS)

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _own(self, row: TurnRow) -> OwnedTurn:
        turn = OwnedTurn(row.tenant, row.session_id, row.turn_id, TurnLog(self._hotstore, row.turn_id), seq=row.seq)
        self._owner.add(turn)
        return turn

    def _start(self, turn: OwnedTurn, life: Coroutine[Any, Any, None]) -> OwnedTurn:
        turn.task = asyncio.create_task(life, name=f"turn {turn.turn_id}")
        self._tasks.add(turn.task)
        turn.task.add_done_callback(self._tasks.discard)
        return turn

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

    async def _earlier_events(self, turn_id: str) -> Sequence[bytes]:
        try:
            return await self._hotstore.log_read(keys.events(turn_id), 0)
        except HotStoreUnavailable:
            return ()

    async def _live(self, turn: OwnedTurn, accepted: Accepted, peeked: bytes | None) -> None:
        """From the accepted row to the end of the turn, whatever happens."""
        row, started = accepted.turn, time.monotonic()
        request_id = str(row.request.get("request_id", ""))
        bind(request_id=request_id, turn_id=row.turn_id)
        span = lines.begin_span(self._tracing, row)
        others = True
        self._metrics.turns_inflight.inc()
        try:
            row, waited = await self._await_turn(turn, row)
            session = accepted.session
            if waited:
                session = await self._stores.sessions.get(turn.tenant, turn.session_id) or session
                peeked = await window.peek(self._hotstore, turn.tenant, turn.session_id)
            if row.cancel_requested and turn.cancelled is None:
                turn.cancelled = row.cancel_reason or "cancelled"
            if self._owner.pace is not None and row.attempt == 1:
                began = time.monotonic() if waited else turn.asked_at  # the wait for the session's other turns is no load
                turn.first_word = FirstWord(self._owner.pace, row.agent_id, bool(row.request.get("streaming")), began)
            agent = await self._agents.of_turn(row.agent_id, row.config_hash)
            run = Run(self._parts, agent, session, row, turn)
            others = await self._run(turn, run, agent.workflow, peeked, request_id)
            if run.state in TERMINAL:
                self._metrics.turns_total.labels(run.state).inc()
            if run.ended is not None:
                try:
                    await asyncio.sleep(0)  # who waits for the reply has it first
                finally:
                    lines.tell(row, turn, *run.ended)
        except (LeaseLost, LeftBehind, asyncio.CancelledError) as e:
            # another node has the turn, or this one ends: the row stays as it is and the lease decides
            if turn.lost or (isinstance(e, LeaseLost) and turn.error is None):
                self._metrics.lease_lost_total.inc()
            log.debug("turn %s is not ended here", turn.turn_id)
        except DependencyUnavailable as e:
            log.error("turn %s cannot go on here: %s", turn.turn_id, e.detail)
            turn.error = e
        finally:
            span.end(error="not_ended" if turn.error else None)
            turn.events.abandon()  # however it came here: readers never wait for a turn that has no run
            self._metrics.turns_inflight.dec()
            self._owner.free(turn)
            self._metrics.turn_seconds.observe(time.monotonic() - started)
            try:
                await self._owner.turn_ended(turn, others)
                await turn.events.flush()  # until then readers find the events here, and whoever goes on finds all of them
                if self._leaving is not None and not turn.events.committed:
                    await self._owner.release(turn)
            finally:
                self._owner.remove(turn)

    async def _run(self, turn: OwnedTurn, run: Run, workflow: Workflow, peeked: bytes | None, request_id: str) -> bool:
        """Runs and ends the turn; every end but the good one becomes an event here. Returns whether other turns of the session wait."""
        try:
            turn.running = True
            if turn.cancelled:
                return await run.cancel(turn.cancelled)
            if not self._agents.serves(run.agent_id):
                raise InvalidRequest(f"there is no agent {run.agent_id!r} here any more", field="agent_id")
            async with asyncio.timeout_at(_loop_time(run.deadline)):
                if self._parts.mcp is not None:
                    await self._parts.mcp.of(workflow)
                return await run.go(peeked)
        except TimeoutError:
            if turn.first_word is not None:
                turn.first_word.given_up()
            return await run.fail(DeadlineExceeded("the turn did not end before its deadline"), request_id)
        except asyncio.CancelledError:
            if not turn.cancelled or turn.lost:
                raise
            return await run.cancel(turn.cancelled)
        except (LeaseLost, LeftBehind, DatabaseUnavailable):
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
        async with self._owner.waiting(turn) as wake:
            while True:
                wake.clear()
                if turn.cancelled or self._owner.is_first(turn):
                    lease = self._owner.lease_seconds
                    claimed = await self._stores.turns.claim(row.tenant, row.turn_id, owner=self._owner.name, lease_seconds=lease)
                    if claimed is not None:
                        return claimed, True
                    fresh = await self._stores.turns.get(row.tenant, row.turn_id)
                    if fresh is None or fresh.finished_at is not None:
                        if fresh is not None:
                            lines.tell_unrun(fresh, turn)
                        raise LeaseLost("the turn has ended elsewhere")
                left = math.inf if deadline is None else deadline - time.time()
                if left <= 0:
                    turn.error = DeadlineExceeded("the session was busy until the deadline")
                    reason = "the session was busy until the deadline"
                    if given_up := await self._stores.turns.cancel(row.tenant, row.turn_id, reason=reason):
                        lines.tell_unrun(given_up, turn)
                    raise LeaseLost("the turn was given up while it waited")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(WAIT_POLL_SECONDS, left)):
                        await wake.wait()


def _loop_time(deadline: float | None) -> float | None:
    return None if deadline is None else asyncio.get_running_loop().time() + (deadline - time.time())
