"""One attempt at a turn: load, greet, decide, act, commit. It ends in exactly one of `go`, `fail` and `cancel`.

The final message is by construction the concatenation of the text deltas that were emitted. Nothing is told to the reader as complete
before the database has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from common.contracts import gate
from common.contracts.events import Event
from common.contracts.problem import problem
from common.contracts.query import Reply, Route, Usage
from common.contracts.salutation import is_salutation
from common.contracts.ticket import Plan
from common.endpoints.call import HttpCaller
from common.errors import LoadsplitError
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.actions.compiled import CompiledWorkflow
from heavy.actions.context import ActionContext, ActionResult
from heavy.actions.dispatch import act
from heavy.agent.said import SEPARATOR, said_before
from heavy.agent.steps import Delta, Step, ToolEnded, ToolStarted
from heavy.llm.types import Gateway, LLMCallFailed, Message
from heavy.turns import window
from heavy.turns.decide import Decision, decide
from heavy.turns.gates import Gates
from heavy.turns.log import TurnLog
from heavy.turns.stores import Fence, Finish, SessionRow, Stores, TurnRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What every run needs."""

    stores: Stores
    hotstore: HotStore
    gateway: Gateway
    caller: HttpCaller
    gates: Gates


class Run:
    """A claimed turn on its way to its end. `state` is how it ended."""

    def __init__(self, parts: RunParts, agent: CompiledWorkflow, session: SessionRow, row: TurnRow, events: TurnLog) -> None:
        self.state: Literal["done", "failed", "cancelled"] = "done"
        self.deadline: float | None = row.request.get("deadline")
        self.agent_id = row.agent_id
        self._parts = parts
        self._agent = agent
        self._session = session
        self._row = row
        self._events = events
        self._fence = Fence(row.tenant, row.session_id, row.turn_id, row.attempt)
        self._plan = Plan(**row.plan) if row.plan else None
        self._message: str = row.request["message"]
        self._greeting = gate.greeting_hash(agent.workflow.greeting)
        self._history: list[Message] = []
        self._transcript: list[Message] = [Message("user", self._message)]
        self._usage = Usage()
        self._said: list[str] = []
        self._shown: str | None = None  # on a later attempt: the answer's text that the log has already

    async def go(self, peeked: bytes | None) -> bool:
        """Runs the turn to its good end. Returns whether other turns of the session wait."""
        row, parts = self._row, self._parts
        if row.attempt > 1:
            stored = await parts.stores.turns.turn_messages(row.tenant, row.turn_id)
            self._transcript = [s.message for s in stored] or self._transcript
            self._usage = row.usage
            text = self._events.text()
            self._said = [text] if text else []
            self._shown = text.removeprefix(f"{self._agent.workflow.greeting}\n\n")
        self._history = await window.load(peeked, parts.stores.sessions, row.tenant, row.session_id, row.seq)
        self._emit_once("start", {"turn_id": row.turn_id, "session_id": row.session_id, "config_hash": self._agent.workflow.config_hash})
        if self._session.status == "transferred":
            muted = ActionResult("", status="transferred", session_status="transferred")
            return await self._end(Route("heavy", "system", None, "conversation"), muted)
        if is_salutation(self._message) and (self._needs_greeting() or self._greeted_before()):
            route, greeting = Route("heavy", "greeting", None, "rule"), self._agent.workflow.greeting or ""
            self._emit_once("route", route)
            if not self._said:
                self._say(greeting)
            return await self._end(route, ActionResult.said(greeting))
        decision = await self._decide()
        self._emit_once("route", decision.route)
        if self._needs_greeting():
            self._say((self._agent.workflow.greeting or "") + "\n\n")
        return await self._end(decision.route, await self._act(decision))

    async def fail(self, error: LoadsplitError, request_id: str) -> bool:
        """Ends the turn with an error: what was said stays in the history, the session stays usable."""
        self.state = "failed"
        if isinstance(error, LLMCallFailed) and error.usage is not None:
            self._usage.add(error.usage)
        document = problem(error, request_id)
        return await self._finish("failed", error=document, event=Event("error", document))

    async def cancel(self, reason: str) -> bool:
        """Ends the turn because someone asked for it."""
        self.state = "cancelled"
        return await self._finish("cancelled", event=Event("cancelled", {"reason": reason}))

    async def _decide(self) -> Decision:
        told = _logged_route(self._events)
        if told is not None and told["matched_by"] != "llm":  # an intent's parameters are not in the log: match again
            groups = self._plan.groups if self._plan else {}
            return Decision(told["action_type"], told["action_target"], told["matched_by"], told["pattern"], groups=groups)
        parts = self._parts
        decision = await decide(
            self._agent,
            self._session,
            self._plan,
            self._history,
            self._message,
            parts.gateway,
            deadline=self.deadline,
            hidden=self._row.request.get("context") or (),
        )
        self._usage.add(decision.usage)
        return decision

    async def _act(self, decision: Decision) -> ActionResult:
        request, row, parts = self._row.request, self._row, self._parts
        context = ActionContext(
            compiled=self._agent,
            gateway=parts.gateway,
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
            groups=decision.groups,
            escalated=self._plan.escalated if self._plan else None,
            deadline=self.deadline,
            streaming=bool(request.get("streaming")),
            shown=self._shown,
        )
        result: ActionResult | None = None
        async with contextlib.aclosing(act(context, decision.intent)) as items:
            async for item in items:
                if isinstance(item, Delta):
                    self._say(item.text)
                elif isinstance(item, Step):
                    await self._commit(item)
                elif isinstance(item, ToolStarted):
                    call = item.call
                    self._events.emit(Event("tool_call", {"call_id": call.id, "name": call.name, "arguments": item.arguments}))
                elif isinstance(item, ToolEnded):
                    done = {"call_id": item.call.id, "name": item.call.name, "ok": item.ok}
                    self._events.emit(Event("tool_result", {**done, "result": item.result, "duration_ms": item.duration_ms}))
                else:
                    result = item
        return result or ActionResult("")

    async def _commit(self, step: Step) -> None:
        self._usage.add(step.usage)
        await self._parts.stores.turns.step(self._fence, first_idx=len(self._transcript), messages=step.messages, usage=self._usage)
        self._transcript.extend(step.messages)

    async def _end(self, route: Route, result: ActionResult) -> bool:
        self._emit_once("route", route)
        self._usage.add(result.usage)
        message = "".join(self._said)
        reply = Reply(self._row.session_id, message, result.status, self._row.turn_id, route, self._usage, self._agent.workflow.config_hash)
        return await self._finish("done", reply=reply, result=result, event=Event("complete", reply))

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
        greeting = self._greeting if self._said or session.greeting == self._greeting else session.greeting
        after = await self._parts.stores.turns.finish(
            self._fence,
            Finish(
                state=state,
                first_idx=len(self._transcript),
                messages=result.messages,
                reply=orjson.loads(orjson.dumps(reply)) if reply else None,  # a tenth of the cost of dataclasses.asdict
                error=error,
                usage=self._usage,
                session_status=result.session_status,
                current_skill=result.current_skill,
                greeting=greeting,
                config_hash=self._agent.workflow.config_hash,
                profile=result.profile,
            ),
        )
        self._events.committed = True
        await self._warm(after, [*self._history, *self._transcript, *result.messages])
        self._events.emit(event)
        return after.active > 0

    async def _warm(self, session: SessionRow, messages: Sequence[Message]) -> None:
        """Tells the rule tier the session's state before the client can send its next message, and keeps the window hot."""
        row, hotstore = self._row, self._parts.hotstore
        with contextlib.suppress(HotStoreUnavailable):  # without a window the next turn reads the database
            await asyncio.gather(self._parts.gates.show(session), window.save(hotstore, row.tenant, row.session_id, row.seq, messages))

    def _not_committed(self) -> str:
        """What the user saw that stands in no committed message: a greeting before an answer never does."""
        seen = "".join(self._said)
        if len(seen) > len(greeting := f"{self._agent.workflow.greeting}\n\n"):
            seen = seen.removeprefix(greeting)
        committed = SEPARATOR.join(said_before(self._transcript))
        return seen.removeprefix(committed).strip() if committed else seen

    def _greeted_before(self) -> bool:
        """Whether an earlier attempt has shown the greeting as the whole answer."""
        told = _logged_route(self._events)
        return told is not None and told["action_type"] == "greeting"

    def _needs_greeting(self) -> bool:
        return bool(self._greeting) and self._session.greeting != self._greeting and not self._said

    def _say(self, text: str) -> None:
        if text:
            self._said.append(text)
            self._events.emit(Event("text", {"delta": text}))

    def _emit_once(self, event_type: str, data: object) -> None:
        """`start` and `route` stand once in a log, also when a second attempt goes on with it."""
        mark = b'{"type":"' + event_type.encode() + b'"'
        if not any(line.startswith(mark) for line in self._events.lines[:2]):
            self._events.emit(Event(event_type, data))


def _logged_route(events: TurnLog) -> dict[str, Any] | None:
    for line in events.lines[:2]:
        doc = orjson.loads(line)
        if doc["type"] == "route":
            return doc["data"]
    return None
