"""One attempt at a turn: load, greet, decide, act, commit. It ends in exactly one of `go`, `fail` and `cancel`; `go` may pause it instead,
for a person to approve a call, `fail` may put it off, where it is a task's, and a later attempt goes on.

The final message is by construction the concatenation of the text deltas that were emitted. Nothing is told to the reader as complete
before the database has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from common.contracts import gate
from common.contracts.events import AWAITING_APPROVAL, Event
from common.contracts.problem import problem
from common.contracts.query import Reply, Route, Status, Usage
from common.contracts.salutation import is_salutation
from common.contracts.ticket import Plan
from common.endpoints.call import HttpCaller
from common.errors import BudgetExceeded, LoadsplitError
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.actions.compiled import CompiledWorkflow
from heavy.actions.context import ActionContext, ActionResult, Knowledge
from heavy.actions.dispatch import act
from heavy.actions.knowledge import start_knowledge
from heavy.agent.calls import unanswered
from heavy.agent.mcp_servers import McpServers
from heavy.agent.said import SEPARATOR, said_before, shown_parts
from heavy.agent.steps import Delta, Routed, Step, ToolEnded, ToolStarted
from heavy.llm.account import account_of
from heavy.llm.types import Gateway, LLMCallFailed, Message
from heavy.turns import approval, window
from heavy.turns.aftermath import aftermath, patched
from heavy.turns.decide import Decision, asks_model, decide
from heavy.turns.doubt import doubtful
from heavy.turns.formed import tell_formed
from heavy.turns.gates import Gates
from heavy.turns.learning import Learner
from heavy.turns.notes import tell
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import Fence, Finish, SessionRow, TurnRow
from heavy.turns.states import TurnState
from heavy.turns.stores import Stores
from heavy.turns.telling import Telling
from heavy.turns.unbroken import unbroken

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0  # seconds before a task's turn is tried again
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What every run needs. `mcp` has the tools of MCP servers, None where no workflow can name any."""

    stores: Stores
    hotstore: HotStore
    gateway: Gateway
    caller: HttpCaller
    gates: Gates
    learner: Learner | None = None
    mcp: McpServers | None = None


class LeftBehind(Exception):
    """This process ends: the turn stands at the end of a step, from which another node goes on."""


class Run:
    """A claimed turn on its way to its end. `state` is how it ended."""

    def __init__(self, parts: RunParts, agent: CompiledWorkflow, session: SessionRow, row: TurnRow, turn: OwnedTurn) -> None:
        self.state: TurnState = "done"
        self.ended: tuple[Finish, float] | None = None  # how, and the database's time of it
        self.deadline: float | None = row.request.get("deadline")
        self.agent_id = row.agent_id
        self._parts = parts
        self._agent = agent
        self._session = session
        self._row = row
        self._turn = turn
        self._told = Telling(turn.events, turn.spoke)
        self._fence = Fence(row.tenant, row.session_id, row.turn_id, row.attempt)
        self._plan = Plan(**row.plan) if row.plan else None
        self._message: str = row.request["message"]
        self._timer: Mapping[str, Any] | None = row.request.get("timer")
        self._form: Mapping[str, Any] | None = row.request.get("form")
        self._greeting = gate.greeting_hash(agent.workflow.greeting)
        self._history: list[Message] = []
        self._transcript: list[Message] = [Message("user", self._message)] if self._message else []
        self._usage = Usage()
        self._gateway = account_of(parts.gateway, row.tenant, row.agent_id, row.session_id, row.turn_id)
        self._doubtful: frozenset[str] = frozenset()
        self._route: Route | None = None
        self._unstored: Decision | None = None  # what was decided, until the first step is committed
        self._shown: str | None = None  # on a later attempt: the answer's text that the log has already

    async def go(self, peeked: bytes | None) -> bool:
        """Runs the turn to its good end. Returns whether other turns of the session wait."""
        row, parts = self._row, self._parts
        await self._begin()
        self._history = await window.load(peeked, parts.stores.sessions, row.tenant, row.session_id, row.seq)
        if self._timer is not None:
            return await self._fire(self._timer)
        if self._session.status == "transferred" and row.approval is None:
            muted = ActionResult("", status="transferred", session_status="transferred")
            return await self._end(Route("heavy", "system", None, "conversation"), muted)
        if is_salutation(self._message) and (self._needs_greeting() or self._greeted_before()):
            route, greeting = Route("heavy", "greeting", None, "rule"), self._agent.workflow.greeting or ""
            self._told.once("route", route)
            if not self._told.text:
                self._told.say(greeting)
            return await self._end(route, ActionResult.said(greeting))
        async with self._knowledge() as knowledge:
            decision = await self._decide()
            if decision.kind != "router":
                self._open(decision.route)
            result = await self._act(decision, knowledge=knowledge, aloud=self._form is None)
        others = await self._end(self._route or decision.route, result)
        if parts.learner is not None and self.state == "done":
            parts.learner.observe(self._agent, row, decision, self._usage, [*self._transcript, *result.messages])
        return others

    async def _begin(self) -> None:
        """What earlier attempts have left, and the first event: however this one ends, it ends behind that."""
        row = self._row
        if row.attempt > 1 and self._shown is None:
            stored = await self._parts.stores.turns.turn_messages(row.tenant, row.turn_id)
            self._transcript = [s.message for s in stored] or self._transcript
            self._usage = row.usage
            self._doubtful = doubtful(row, self._transcript)
            self._shown = self._told.take_up().removeprefix(f"{self._agent.workflow.greeting}\n\n")
        self._told.once("start", {"turn_id": row.turn_id, "session_id": row.session_id, "config_hash": self._agent.workflow.config_hash})

    def _open(self, route: Route) -> None:
        """Tells the route, once it is known, and greets. A later attempt keeps the route that was told."""
        self._route = Route(**told) if (told := self._told.route()) else route
        self._told.once("route", route)
        if self._needs_greeting() and not self._agent.is_silent(route.action_type, route.action_target):
            self._told.greet((self._agent.workflow.greeting or "") + "\n\n")

    @contextlib.asynccontextmanager
    async def _knowledge(self) -> AsyncIterator[Knowledge | None]:
        """Asks the knowledge tool beside the first LLM call, where there will be one."""
        query = None
        if asks_model(self._agent, self._session, self._plan):
            ctx, row = self._context(), self._row
            query = start_knowledge(
                self._agent.knowledge, ctx.caller, ctx.variables, message=self._message, turn_id=row.turn_id, deadline=self.deadline
            )
        try:
            yield query
        finally:
            if query is not None:
                await query.aclose()

    async def _fire(self, timer: Mapping[str, Any]) -> bool:
        """A timer's turn: its message, or its action; where it has both, its message stands for the action's own words."""
        spoken, kind = timer["message"], timer["action_type"]
        decision = Decision(kind, timer["action_target"])
        self._told.once("route", decision.route)
        if kind == "message":
            session = self._session
            result = ActionResult.said(spoken, session_status=session.status, current_skill=session.current_skill)
        else:
            self._unstored = decision
            result = await self._act(decision, aloud=not spoken)
        if spoken and result.reason != "awaiting_approval":
            if not self._told.text:
                self._told.say(spoken)
            result = replace(result, text=spoken, messages=(Message("assistant", spoken),))
        return await self._end(decision.route, result)

    async def fail(self, error: LoadsplitError, request_id: str) -> bool:
        """Ends the turn with an error: what was said stays in the history, the session stays usable. A task's turn is put off instead, as
        long as another attempt may help, and where only the budget is spent until that is over."""
        await self._begin()
        if isinstance(error, LLMCallFailed) and error.usage is not None:
            self._usage.add(error.usage)
        document = problem(error, request_id)
        task = self._row.request.get("task")
        spent = isinstance(error, BudgetExceeded)  # it was let in while there was something left
        if task and (spent or (error.retryable and self._row.tries + 1 < task["max_attempts"])):
            return await self._postpone(document, error.retry_after or 0.0)
        self.state = "failed"
        return await self._finish("failed", error=document, event=Event("error", document))

    async def cancel(self, reason: str) -> bool:
        """Ends the turn because someone asked for it."""
        await self._begin()
        self.state = "cancelled"
        return await self._finish("cancelled", event=Event("cancelled", {"reason": reason}))

    async def _decide(self) -> Decision:
        if self._row.decision is not None:
            return Decision.of_json(self._row.decision)
        told = self._told.route()
        if told is not None and told["matched_by"] != "llm":  # an intent's parameters are not in the log: match again
            groups = self._plan.groups if self._plan else {}
            return Decision(told["action_type"], told["action_target"], told["matched_by"], told["pattern"], groups=groups)
        decision = await decide(
            self._agent,
            self._session,
            self._plan,
            self._history,
            self._message,
            self._gateway,
            deadline=self.deadline,
            hidden=self._row.request.get("context") or (),
            handed_back=self._session.handoff.get("summary"),
        )
        self._usage.add(decision.usage)
        self._unstored = decision
        return decision

    def _context(self) -> ActionContext:
        """What actions see of this turn, as far as it is known before one is chosen."""
        request, row, parts = self._row.request, self._row, self._parts
        return ActionContext(
            compiled=self._agent,
            gateway=self._gateway,
            caller=parts.caller,
            history=self._history,
            transcript=self._transcript,
            message=self._message,
            tenant=row.tenant,
            session_id=row.session_id,
            user_id=request.get("user_id") or self._session.user_id,
            turn_id=row.turn_id,
            context=request.get("context") or {},
            profile=self._session.profile,
            escalated=self._plan.escalated if self._plan else None,
            deadline=self.deadline,
            streaming=bool(request.get("streaming")),
            shown=self._shown,
            decisions=approval.decisions(row.approval),
            spent=row.usage,
            doubtful=self._doubtful,
            began=row.started_at if row.approval is None else None,  # the time that persons took does not count
            handed_back=self._session.handoff.get("summary"),
            mcp=parts.mcp.at_hand(self._agent.workflow) if parts.mcp is not None else None,
        )

    async def _act(self, decision: Decision, *, knowledge: Knowledge | None = None, aloud: bool = True) -> ActionResult:
        context = replace(self._context(), groups=decision.groups, knowledge=knowledge)
        result: ActionResult | None = None
        async with contextlib.aclosing(act(context, decision.intent)) as items:
            async for item in items:
                if isinstance(item, Delta):
                    self._told.say(item.text if aloud else "")
                elif isinstance(item, Step):
                    await self._commit(item)
                elif isinstance(item, Routed):
                    self._open(Route("heavy", item.kind, item.target, decision.matched_by))
                elif isinstance(item, ToolStarted | ToolEnded):
                    self._told.tool(item)
                else:
                    result = item
        return result or ActionResult("")

    async def _commit(self, step: Step) -> None:
        await unbroken(self._write(step))
        if self._turn.leaving and not unanswered(self._transcript):
            raise LeftBehind

    async def _write(self, step: Step) -> None:
        self._usage.add(step.usage)
        decision, self._unstored = self._unstored, None
        await self._parts.stores.turns.step(
            self._fence,
            first_idx=len(self._transcript),
            messages=step.messages,
            usage=self._usage,
            decision=decision.as_json() if decision else None,
        )
        self._transcript.extend(step.messages)

    async def _end(self, route: Route, result: ActionResult) -> bool:
        self._told.once("route", route)
        self._usage.add(result.usage)
        if result.reason == "awaiting_approval":
            return await self._pause(route, result)
        if self._form is not None:
            await tell_formed(self._form, self._told, self._context(), result, self._usage)
        reply = self._reply(route, self._told.text, result.status)
        return await self._finish("done", reply=reply, result=result, event=Event("complete", reply))

    def _reply(self, route: Route, message: str, status: Status) -> Reply:
        row = self._row
        return Reply(row.session_id, message, status, row.turn_id, route, self._usage, self._agent.workflow.config_hash)

    async def _pause(self, route: Route, result: ActionResult) -> bool:
        """Leaves the turn to whoever decides on its calls. A caller that waits for a reply is told what is asked."""
        self.state = "awaiting_approval"
        await self._turn.events.flush()  # the attempt that goes on, wherever that is, begins with all of them
        row, asked = self._row, approval.ask(result.held, attempt=self._row.attempt, row_approval=self._row.approval)
        question = approval.question(self._agent.workflow, asked, self._message)
        reply = self._reply(route, SEPARATOR.join([*filter(None, [self._told.text]), question]), "queued")
        told = {"turn_id": row.turn_id, "calls": asked["calls"]}
        after = await self._parts.stores.turns.pause(
            self._fence,
            first_idx=len(self._transcript),
            messages=result.messages,
            usage=self._usage,
            approval=asked,
            reply=_json(reply),
            events=[approval.asked_event(row, asked)],
        )
        self._turn.events.committed = True
        await asyncio.gather(self._parts.gates.show(after), tell(self._parts.hotstore, row.tenant, row.session_id))
        self._turn.events.emit(Event(AWAITING_APPROVAL, {**told, "message": question}), keep=keys.PAUSED_TTL)
        return after.active > 0

    async def _postpone(self, error: dict[str, Any], retry_after: float) -> bool:
        """Leaves the turn to a later attempt, which goes on from the last committed step."""
        self.state = "accepted"
        tries = self._row.tries
        delay = max(retry_after, min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries) * random.uniform(0.75, 1.25))
        await self._turn.events.flush()
        after = await self._parts.stores.turns.postpone(
            self._fence, first_idx=len(self._transcript), messages=(), usage=self._usage, error=error, delay_seconds=delay
        )
        self._turn.events.committed = True
        return after.active > 0

    async def _finish(
        self,
        state: Literal["done", "failed", "cancelled"],
        *,
        event: Event,
        reply: Reply | None = None,
        error: dict[str, Any] | None = None,
        result: ActionResult | None = None,
    ) -> bool:
        session = self._session
        if result is None:  # a turn that did not come to its end leaves the session as it was, with what the user saw
            result = ActionResult.said(self._not_committed(), session_status=session.status, current_skill=session.current_skill)
        then = aftermath(self._agent, session, self._row, result, self._told.text)
        greeting = self._greeting if self._told.text or session.greeting == self._greeting else session.greeting
        after = await self._parts.stores.turns.finish(
            self._fence,
            end := Finish(
                state=state,
                first_idx=len(self._transcript),
                messages=result.messages,
                reply=_json(reply) if reply else None,
                error=error,
                usage=self._usage,
                session_status=None if session.status == "transferred" else result.session_status,  # a human ends that, not a turn
                current_skill=result.current_skill,
                greeting=greeting,
                config_hash=self._agent.workflow.config_hash,
                profile=patched(session.profile, result.profile) if result.profile else None,
                handoff=then.handoff,
                events=then.events,
                timers=then.timers,
            ),
        )
        self.ended = (end, after.updated_at)
        self._turn.events.committed = True
        await self._warm(after, [*self._history, *self._transcript, *result.messages])
        if then.events:
            await tell(self._parts.hotstore, self._row.tenant, self._row.session_id)
        self._turn.events.emit(event)
        return after.active > 0

    async def _warm(self, session: SessionRow, messages: Sequence[Message]) -> None:
        """Tells the rule tier the session's state before the client can send its next message, and keeps the window hot."""
        row, hotstore = self._row, self._parts.hotstore
        with contextlib.suppress(HotStoreUnavailable):  # without a window the next turn reads the database
            await asyncio.gather(self._parts.gates.show(session), window.save(hotstore, row.tenant, row.session_id, row.seq, messages))

    def _not_committed(self) -> str:
        """What the user saw that stands in no committed message of the assistant: a greeting before an answer never does."""
        seen = self._told.text
        if len(seen) > len(greeting := f"{self._agent.workflow.greeting}\n\n"):
            seen = seen.removeprefix(greeting)
        committed = SEPARATOR.join(said_before(self._transcript))
        rest = seen.removeprefix(committed).strip() if committed else seen
        return SEPARATOR.join(filter(None, [*shown_parts(self._transcript), rest]))

    def _greeted_before(self) -> bool:
        """Whether an earlier attempt has shown the greeting as the whole answer."""
        return (self._told.route() or {}).get("action_type") == "greeting"

    def _needs_greeting(self) -> bool:
        """A closed session that a message opens again is greeted like a new one."""
        greeted = self._session.greeting == self._greeting and self._session.status != "closed"
        return bool(self._greeting) and self._form is None and not greeted and not self._told.text


def _json(reply: Reply) -> dict[str, Any]:
    return orjson.loads(orjson.dumps(reply))  # a tenth of the cost of dataclasses.asdict
