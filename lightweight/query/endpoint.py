"""The hot path: decode → match → gate → answer, or hand off. Plain ASGI, because a framework's request and response cost a third.

It knows no route table: `routes.py` mounts one instance for /api/v1/query and one for /api/v1/query/stream. `chat.py` is the same behind
another protocol.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any

from common.contracts.idempotency import HEADER, REPLAYED, keyed
from common.contracts.query import ON_BUSY_HEADER, Query, new_turn_id, parse_on_busy, parse_query
from common.contracts.ticket import Plan, Ticket, sign
from common.errors import DependencyUnavailable, InvalidRequest, LoadsplitError, MethodNotAllowed
from common.telemetry.bound import bind_turn
from common.telemetry.metrics import Metrics
from common.telemetry.tracing import NO_TRACING, Tracing
from common.web.asgi import ClientDisconnected, Receive, Scope, Send, read_body, request_id
from common.web.auth import KeyRing
from common.web.errors import as_loadsplit_error, problem_response
from common.web.middleware import InFlight
from common.web.rate import RequestRate
from lightweight.agents import Agent, Agents
from lightweight.answer import Answer, RuleAnswers, Turn, plan
from lightweight.door import Door
from lightweight.handoff import Handoff
from lightweight.idempotency import Idempotency
from lightweight.matching.match import Match
from lightweight.query.lines import TurnLines
from lightweight.query.spans import answered_span, begin_span, end_span
from lightweight.replies import stream, stream_again

MAX_TIMEOUT = 3600.0
MAX_KNOWN = 2000
_TIER = (b"x-loadsplit-tier", b"lightweight")
JSON: tuple[tuple[bytes, bytes], ...] = (_TIER, (b"content-type", b"application/json"))
EVENTS = (
    _TIER,
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
CLIENT_GONE = 499
# (send, agent, turn, answer, request id, seconds of matching, beginning)
SendReply = Callable[[Send, Agent, Turn, Answer | bytes, str, float, float], Awaitable[None]]


class QueryEndpoint:
    """Answers queries by rule and hands the others on. Every collaborator is given; `streaming` chooses events instead of one JSON."""

    def __init__(
        self,
        agents: Agents,
        answers: RuleAnswers,
        handoff: Handoff,
        idempotency: Idempotency,
        *,
        keys: KeyRing,
        rate: RequestRate,
        ticket_key: bytes,
        metrics: Metrics,
        inflight: InFlight,
        door: Door,
        lines: TurnLines | None = None,
        tracing: Tracing = NO_TRACING,
        streaming: bool = False,
        kind: str | None = None,
    ) -> None:
        self._agents = agents
        self._answers = answers
        self._handoff = handoff
        self._idempotency = idempotency
        self._keys = keys
        self._rate = rate
        self._ticket_key = ticket_key
        self._inflight = inflight
        self._door = door
        self._lines = lines
        self._tracing = tracing
        self._streaming = streaming
        self._kind = kind or ("query_stream" if streaming else "query")
        self._requests = metrics.requests_total
        self._answered = metrics.requests_total.labels("lightweight", self._kind, "200")
        self._seconds = metrics.request_seconds.labels("lightweight")
        self._hits = RuleHits(metrics)
        self._handoffs = metrics.handoffs_total.labels(handoff.mode)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Whatever is wrong with it, or here, is answered as a problem."""
        began = perf_counter()
        status = 500
        door = self._door
        self._inflight.count += 1
        door.count += 1
        try:
            if door.count > door.limit.now:
                raise door.refusal(self._agents.busy_message)
            status = await self._serve(scope, receive, send, began)
        except ClientDisconnected:
            status = CLIENT_GONE
        except Exception as e:  # noqa: BLE001 the last line before the server, which breaks off a reply that had begun; the log has the cause
            rid = request_id(scope)
            status = await self._refuse(send, as_loadsplit_error(e, rid), rid, began, scope["path"])
        finally:
            self._inflight.count -= 1
            door.count -= 1
            (self._answered if status == 200 else self._requests.labels("lightweight", self._kind, str(status))).inc()
            self._seconds.observe(perf_counter() - began)
            if self._tracing.on:
                end_span(scope, status)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, began: float) -> int:
        if scope["method"] != "POST":
            raise MethodNotAllowed("use POST here")
        caller = self._keys.authenticate(scope["headers"])
        caller.need("query")
        if caller.limits.requests_per_minute is not None:
            await self._rate.count(caller.tenant, caller.limits)
        body = await read_body(scope, receive)
        query = parse_query(body)
        asked = (query.agent_id, caller.tenant, query.session_id)
        agent = self._agents.at_hand(*asked) or await self._agents.choose(*asked)
        return await self._decide(scope, receive, send, body, caller.tenant, agent, query, began, self._reply)

    async def _decide(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: bytes,
        tenant: str,
        agent: Agent,
        query: Query,
        began: float,
        reply: SendReply,
        *,
        hand_on: bool = False,
    ) -> int:
        """Answers a query by rule, or hands the request on (with `hand_on` also where a rule could answer)."""
        headers = dict(scope["headers"])
        parse_on_busy(headers.get(ON_BUSY_HEADER))  # it concerns heavy; nonsense is refused whoever answers
        turn = Turn(tenant, new_turn_id(), query, _deadline(headers.get(b"x-loadsplit-timeout")), began=began)
        if b"x-request-id" not in headers:  # then the turn's digits do: fresh random ones would cost a system call more
            scope.setdefault("state", {})["request_id"] = turn.turn_id[2:]
        turn.request_id = request_id(scope)
        bind_turn(turn.request_id, turn.turn_id)
        if self._tracing.on:
            turn.traceparent = begin_span(self._tracing, scope, headers, turn, agent)
        match = agent.matcher.match(query.message, context=query.context)
        matched = perf_counter() - began
        if match and not match.ambiguous:
            self._hits.of(agent)[match.index].inc()
        key = headers.get(HEADER)
        if hand_on:
            await self._hand_off(scope, receive, send, body, agent, turn, plan(match))
            return 200
        answer = await (self._answers.answer(agent, turn, match) if key is None else self._answer_once(agent, turn, match, key))
        if isinstance(answer, Plan):
            await self._hand_off(scope, receive, send, body, agent, turn, answer)
            return 200
        await reply(send, agent, turn, answer, turn.request_id, matched, began)
        if self._tracing.on:
            answered_span(scope, answer)
        if self._lines is not None:
            self._lines.tell(agent, turn, answer, matched, began)
        return 200

    async def _answer_once(self, agent: Agent, turn: Turn, match: Match | None, key: bytes) -> Answer | Plan | bytes:
        """The answer under an Idempotency-Key: bytes are the reply of the first request with it. What heavy has had, and everything while
        the hot store is away, goes to heavy, whose database knows the key."""
        known = keyed(key, turn.tenant, turn.query.as_asked(), self._ticket_key)
        if known is None:
            raise InvalidRequest("Idempotency-Key is empty", field="Idempotency-Key")
        turn.turn_id, turn.fingerprint = known.ids[0], known.fingerprint
        kept = await self._idempotency.begin(turn.tenant, known, turn.deadline)
        if kept is None:
            return plan(match)
        if kept.claim is None:
            turn.turn_id = kept.turn_id
            return kept.reply if kept.reply is not None else plan(match)
        async with self._idempotency.answering(turn.tenant, known, kept.claim):
            answer = await self._answers.answer(agent, turn, match)
        if isinstance(answer, Plan):
            await self._idempotency.handed(turn.tenant, known)
        else:
            await self._idempotency.replied(turn.tenant, known, answer.reply)
        return answer

    async def _reply(self, send: Send, agent: Agent, turn: Turn, answer: Answer | bytes, rid: str, matched: float, began: float) -> None:
        content, body = JSON, answer if isinstance(answer, bytes) else answer.reply
        if self._streaming:
            content = EVENTS
            if isinstance(answer, bytes):
                body = stream_again(answer)
            else:
                body = stream(answer.frame, turn.query.session_id.encode(), turn.turn_id.encode(), answer.message, answer.reply)
        await send_answer(send, content, body, rid, agent.config_hash, matched, began, replayed=isinstance(answer, bytes))

    async def _hand_off(self, scope: Scope, receive: Receive, send: Send, body: bytes, agent: Agent, turn: Turn, plan: Plan) -> None:
        self._handoffs.inc()
        session_id = turn.query.session_id
        ticket = Ticket(
            turn.tenant, agent.workflow.agent_id, session_id, turn.turn_id, agent.config_hash, plan, turn.deadline, 0.0, turn.traceparent
        )
        try:
            await self._onward(scope, receive, send, body, sign(ticket, self._ticket_key), f"{turn.tenant}/{session_id}")
        except DependencyUnavailable as e:
            if agent.workflow.busy_message:  # what a chat front end may show in place of an answer
                e.extra["message"] = agent.workflow.busy_message
            raise

    async def _onward(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        """Heavy's part of a request: meanwhile it takes no place at the door, however long it lasts."""
        self._door.count -= 1
        try:
            await self._handoff(scope, receive, send, body, ticket, session_key)
        finally:
            self._door.count += 1

    async def _refuse(self, send: Send, error: LoadsplitError, rid: str, began: float, path: str) -> int:
        status, headers, body = problem_response(error, rid, path)
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *self._refusal_headers(error, began)]})
        await send({"type": "http.response.body", "body": body})
        return status

    def _refusal_headers(self, error: LoadsplitError, began: float) -> Iterable[tuple[bytes, bytes]]:
        yield _TIER
        yield b"x-loadsplit-config", self._agents.config_hash.encode()
        yield b"server-timing", b"total;dur=%.3f" % ((perf_counter() - began) * 1000)
        if isinstance(error, MethodNotAllowed):
            yield b"allow", b"POST"


async def send_answer(
    send: Send,
    content: tuple[tuple[bytes, bytes], ...],
    body: bytes,
    rid: str,
    config_hash: str,
    matched: float,
    began: float,
    *,
    replayed: bool,
) -> None:
    """A reply of this tier in two messages; `content` says of which type it is."""
    headers = [
        *content,
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", rid.encode()),
        (b"x-loadsplit-config", config_hash.encode()),
        (b"server-timing", b"match;dur=%.3f, total;dur=%.3f" % (matched * 1000, (perf_counter() - began) * 1000)),
    ]
    if replayed:
        headers.append(REPLAYED)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class RuleHits:
    """The counters of rule hits, looked up once for each agent and not for each request."""

    def __init__(self, metrics: Metrics) -> None:
        self._family = metrics.rule_hits_total
        self._known: dict[tuple[str, str], list[Any]] = {}

    def of(self, agent: Agent) -> list[Any]:
        """A counter for each rule of the agent, by the rule's index."""
        agent_id = agent.workflow.agent_id
        known = self._known.get((agent_id, agent.config_hash))
        if known is None:
            if len(self._known) >= MAX_KNOWN:  # versions come and go
                self._known.clear()
            known = [self._family.labels(agent_id, rule.action.id) for rule in agent.matcher.rules]
            self._known[agent_id, agent.config_hash] = known
        return known


def _deadline(given: bytes | None) -> float | None:
    """Unix seconds at which the caller stops waiting, from X-Loadsplit-Timeout (seconds). Raises InvalidRequest for nonsense."""
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InvalidRequest(f"X-Loadsplit-Timeout must be seconds, more than 0 and at most {MAX_TIMEOUT:.0f}", field="X-Loadsplit-Timeout")
    return time.time() + seconds
