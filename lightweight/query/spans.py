"""The span of a request in the rule tier: begun when its turn has an id, ended with the reply or the hand-off."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from common.telemetry.bound import bind
from common.telemetry.tracing import NO_SPAN, Span, Tracing, checked_parent, work_under
from common.web.asgi import Scope
from common.web.middleware import span_name
from lightweight.agents import Agent
from lightweight.answer import Answer, Turn


def begin_span(tracing: Tracing, scope: Scope, headers: Mapping[bytes, bytes], turn: Turn, agent: Agent) -> str:
    """Begins it, under the caller's own if it names one; its traceparent, for the ticket."""
    parent = checked_parent(headers.get(b"traceparent"))
    span = tracing.begin(span_name(scope), parent=parent, request_id=turn.request_id, kind="server")
    if span.recording:
        _describe(span, turn, agent)
    scope["state"]["span"] = span
    work_under(span)
    bind(trace_id=span.trace_id)
    return span.traceparent


def _describe(span: Span, turn: Turn, agent: Agent) -> None:
    span.set(
        {
            "http.request.method": "POST",
            "loadsplit.tier": "lightweight",
            "loadsplit.request_id": turn.request_id,
            "loadsplit.turn_id": turn.turn_id,
            "loadsplit.tenant": turn.tenant,
            "loadsplit.config_hash": agent.config_hash,
            "gen_ai.agent.name": agent.workflow.agent_id,
            "gen_ai.conversation.id": turn.query.session_id,
        }
    )


def answered_span(scope: Scope, answer: Answer | bytes) -> None:
    """Adds the route of an answer; bytes are a reply given again."""
    span = _span(scope)
    if not span.recording:
        return
    route = orjson.loads(answer if isinstance(answer, bytes) else answer.reply)["route"]
    span.set({f"loadsplit.{name}": route[name] for name in ("action_type", "action_target", "matched_by")})


def end_span(scope: Scope, status: int) -> None:
    """Ends it, if there is one: a request that was refused before its turn had an id has none."""
    span = _span(scope)
    span.set({"http.response.status_code": status})
    span.end(error=str(status) if status >= 500 else None)


def _span(scope: Scope) -> Span:
    found: Span = scope.get("state", {}).get("span", NO_SPAN)
    return found
