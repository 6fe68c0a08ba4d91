"""From a message to a rule's answer, or to the plan with which heavy goes on. Knows sessions only by their gate, and no client's HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import orjson

from common.contracts.idempotency import call_key
from common.contracts.query import Query
from common.contracts.salutation import is_salutation
from common.contracts.ticket import Plan
from common.endpoints.answer import perform, variables_for
from common.endpoints.call import HttpCaller
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from lightweight.agents import Agent, Answering
from lightweight.gate import ANYWHERE, IN_READY, Standing, allowed, standing
from lightweight.journal import UNRECORDED, entry, record
from lightweight.learned import Learned, ask
from lightweight.matching.match import Match
from lightweight.replies import NOTHING, Frame, whole


@dataclass(slots=True)  # not frozen: that doubles the time to make one
class Turn:
    """One message to answer. `deadline` is Unix seconds, None without one; `fingerprint` that of a request with an Idempotency-Key; `began`
    is by perf_counter."""

    tenant: str
    turn_id: str
    query: Query
    deadline: float | None = None
    fingerprint: str = ""
    request_id: str = ""
    began: float = 0.0
    traceparent: str = ""

    def entry(self, agent: Agent, reply: bytes, greeting: str) -> bytes:
        """What the journal keeps of it."""
        took = perf_counter() - self.began if self.began else 0.0
        return entry(self.tenant, agent.workflow.agent_id, self.query, reply, greeting, self.fingerprint, self.request_id, took)


@dataclass(slots=True)
class Answer:
    """What a rule answered: its frame, the message as JSON, and the whole reply as JSON."""

    frame: Frame
    message: bytes
    reply: bytes


class RuleAnswers:
    """Answers by rule. One for a process; every collaborator is given."""

    def __init__(self, hotstore: HotStore, caller: HttpCaller, metrics: Metrics) -> None:
        self._hotstore = hotstore
        self._caller = caller
        self._metrics = metrics

    async def answer(self, agent: Agent, turn: Turn, match: Match | None) -> Answer | Plan:
        """The rule's answer, or the plan for heavy: there is no rule, its action is heavy's, the gate is closed, or its API failed."""
        ready = _ready(agent, match)
        if match and ready and not ready.calls and not agent.greeting:
            return await self._static(agent, turn, match, ready)
        may_greet = bool(agent.greeting) and is_salutation(turn.query.message)
        if agent.learned is not None and ready is None and not may_greet and (match is None or match.ambiguous):
            known = await ask(self._hotstore, agent, turn.tenant, turn.query)
            if known is not None:
                return await self._by_learned(agent, turn, known)
        if ready is None and not may_greet and not (match and agent.matcher.has_interrupts):
            return plan(match)
        session = await standing(self._hotstore, turn.tenant, turn.query.session_id)
        return await self._in_session(agent, turn, match, session, may_greet)

    async def _static(self, agent: Agent, turn: Turn, match: Match, ready: Answering) -> Answer | Plan:
        """The short way: gate and journal in one trip, nothing called before it."""
        message = ready.constant or await self._text(agent, turn, match, ready, "")
        if isinstance(message, Plan):
            return message
        answer = _answer(ready.frame, turn, message, ready.action.silent)
        data = turn.entry(agent, answer.reply, "")
        gate = await record(self._hotstore, turn.tenant, turn.query.session_id, turn.turn_id, data, allowed(match.action.interrupts))
        if gate is None:
            return answer
        if gate is UNRECORDED:
            if turn.fingerprint:
                return plan(match)
            self._metrics.unrecorded_turns_total.inc()
            return answer
        return await self._in_session(agent, turn, match, Standing(gate), False)

    async def _in_session(self, agent: Agent, turn: Turn, match: Match | None, session: Standing, may_greet: bool) -> Answer | Plan:
        """The long way: the gate is known first, because of a greeting, an API call, or rules that may interrupt a conversation."""
        greet = session.needs_greeting(agent.greeting_hash)
        if greet and may_greet and session.allows(IN_READY):
            return await self._greet(agent, turn, session)
        if session.in_conversation and match and agent.matcher.has_interrupts and (match.ambiguous or not match.action.interrupts):
            match = agent.matcher.match(turn.query.message, context=turn.query.context, in_conversation=True) or match
        ready = _ready(agent, match)
        if match is None or ready is None or not session.allows(allowed(match.action.interrupts)):
            return plan(match)
        return await self._performed(agent, turn, match, ready, session, greet)

    async def _by_learned(self, agent: Agent, turn: Turn, known: Learned) -> Answer | Plan:
        """What the LLM has chosen for these words again and again, without asking it."""
        self._metrics.learned_hits_total.labels(agent.workflow.agent_id, known.match.action.id).inc()
        if known.ready is None:
            return plan(known.match)
        greet = known.session.needs_greeting(agent.greeting_hash)
        return await self._performed(agent, turn, known.match, known.ready, known.session, greet)

    async def _performed(self, agent: Agent, turn: Turn, match: Match, ready: Answering, session: Standing, greet: bool) -> Answer | Plan:
        """The answer of an action, recorded; `session` is known and allows it.

        With an Idempotency-Key it must be recorded, else heavy gives it: its call there is the same one. A call that must not be made twice
        is left to heavy from the beginning, whose database knows whether it was begun.
        """
        if turn.fingerprint and ready.action.endpoint is not None and ready.action.endpoint.idempotent is False:
            return plan(match)
        greet = greet and not ready.action.silent  # nothing is said now: the next message is greeted
        greeting = agent.greeting + "\n\n" if greet else ""
        message = await self._text(agent, turn, match, ready, greeting)
        if isinstance(message, Plan):
            return message
        answer = _answer(ready.frame, turn, message, ready.action.silent)
        # An API that has been called can't be called again by heavy: then the turn is recorded whatever the gate has become meanwhile.
        states = ANYWHERE if ready.calls else allowed(match.action.interrupts)
        return answer if await self._recorded(agent, turn, answer, session, states, greet) else plan(match)

    async def _greet(self, agent: Agent, turn: Turn, session: Standing) -> Answer | Plan:
        answer = _answer(agent.greeting_frame, turn, orjson.dumps(agent.greeting))
        return answer if await self._recorded(agent, turn, answer, session, IN_READY, True) else Plan()

    async def _text(self, agent: Agent, turn: Turn, match: Match, ready: Answering, greeting: str) -> bytes | Plan:
        """The rule's message as JSON, or the plan with the reason why there is none."""
        query = turn.query
        variables = variables_for(
            agent.workflow,
            message=query.message,
            session_id=query.session_id,
            user_id=query.user_id,
            tenant=turn.tenant,
            context=query.context,
            groups=match.groups,
            parameter_mapping=match.action.parameter_mapping,
            arguments=match.arguments,
            settings=agent.settings,
        )
        key = call_key(turn.turn_id, match.kind, match.action.id)
        outcome = await perform(ready.action, variables, self._caller, deadline=turn.deadline, idempotency_key=key)
        if outcome.text is None:
            return plan(match, outcome.failure or f"{match.kind} {match.action.id}: there was no result")
        return orjson.dumps(greeting + outcome.text)

    async def _recorded(self, agent: Agent, turn: Turn, answer: Answer, session: Standing, states: bytes, greet: bool) -> bool:
        """False when the gate stood in the way, or for a request with a key without a hot store; another answer that could not be recorded
        is counted and given all the same."""
        shown = agent.greeting_hash if greet else session.gate.greeting if session.gate else ""
        gate = await record(
            self._hotstore,
            turn.tenant,
            turn.query.session_id,
            turn.turn_id,
            turn.entry(agent, answer.reply, shown),
            states,
            session.after_greeting(agent.greeting_hash) if greet else None,
        )
        if gate is UNRECORDED and not turn.fingerprint:
            self._metrics.unrecorded_turns_total.inc()
            return True
        return gate is None


def _ready(agent: Agent, match: Match | None) -> Answering | None:
    return agent.answering[match.index] if match and not match.ambiguous else None


def _answer(frame: Frame, turn: Turn, message: bytes, silent: bool = False) -> Answer:
    """The answer; a silent action's is only silent while it says nothing (its `on_error` may have a text)."""
    status = b"silent" if silent and message == NOTHING else b"success"
    return Answer(frame, message, whole(frame, turn.query.session_id.encode(), turn.turn_id.encode(), message, status))


def plan(match: Match | None, escalated: str | None = None) -> Plan:
    """What heavy is to know of the match: the rule's action, or the reason why it could not answer here."""
    if match is None or match.ambiguous:
        return Plan()
    if match.arguments is not None:
        return Plan(match.kind, match.action.id, None, {}, escalated, "learned", match.arguments)
    return Plan(match.kind, match.action.id, match.pattern, dict(match.groups), escalated)


def planned(agent: Agent, query: Query) -> Plan:
    """What the rules make of a message that does not pass this tier, as tasks do not."""
    return plan(agent.matcher.match(query.message, context=query.context))
