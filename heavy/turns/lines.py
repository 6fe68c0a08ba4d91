"""The log line of a turn that has ended here, and its span: what happened in it, with the figures that the database has. They hold nobody's
words."""

from __future__ import annotations

import logging
from typing import Any

from common.telemetry.bound import bind
from common.telemetry.tracing import NO_SPAN, Span, Tracing, checked_parent, current_span, work_under
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import Finish, TurnRow

TOOL_RESULT = b'{"type":"tool_result"'
log = logging.getLogger(__name__)


def begin_span(tracing: Tracing, row: TurnRow) -> Span:
    """The span of an attempt at a turn, under the request that brought it; this task works under it from now on. A task's request may have
    brought many turns: without a parent each begins a trace of its own."""
    if not tracing.on:
        return NO_SPAN
    request = row.request
    request_id = "" if "task" in request else str(request.get("request_id", ""))
    span = tracing.begin(f"invoke_agent {row.agent_id}", parent=checked_parent(request.get("traceparent")), request_id=request_id)
    named = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": row.agent_id, "gen_ai.conversation.id": row.session_id}
    span.set({**named, "loadsplit.turn_id": row.turn_id, "loadsplit.request_id": str(request.get("request_id", ""))})
    work_under(span)
    bind(trace_id=span.trace_id)
    return span


def tell(row: TurnRow, turn: OwnedTurn, finish: Finish, ended_at: float) -> None:
    """Writes the line, and the same onto the span. `ended_at` is the database's time of the end."""
    told = figures(row, turn, finish, ended_at)
    log.info("turn ended", extra=told)
    current_span().set({f"loadsplit.{name}": value for name, value in told.items()})


def tell_unrun(row: TurnRow, turn: OwnedTurn) -> None:
    """The same for a turn that was given up while it waited: it has never run, so nobody else tells of it."""
    if row.finished_at is not None and row.started_at is None and row.state == "cancelled":
        tell(row, turn, Finish(row.state, 0, usage=row.usage, config_hash=row.config_hash), row.finished_at)


def figures(row: TurnRow, turn: OwnedTurn, finish: Finish, ended_at: float) -> dict[str, Any]:
    """What is told of a turn: ids, route, steps, tokens, cost and times (milliseconds)."""
    began = row.created_at if row.started_at is None else row.started_at
    route = (finish.reply or {}).get("route") or {}
    error = finish.error or {}
    return {
        "turn_id": row.turn_id,
        "tenant": row.tenant,
        "session_id": row.session_id,
        "agent_id": row.agent_id,
        "status": finish.state,
        "code": error.get("code"),
        "tier": "heavy",
        "action_type": route.get("action_type"),
        "action_target": route.get("action_target"),
        "matched_by": route.get("matched_by"),
        "config_hash": finish.config_hash,
        "attempt": row.attempt,
        "llm_calls": finish.usage.llm_calls,
        "tool_calls": tool_calls(turn),
        "input_tokens": finish.usage.input_tokens,
        "cached_tokens": finish.usage.cached_tokens,
        "output_tokens": finish.usage.output_tokens,
        "cost_usd": finish.usage.cost_usd,
        "ms": round((ended_at - began) * 1000, 3),
        "waited_ms": round((began - row.created_at) * 1000, 3),
    }


def tool_calls(turn: OwnedTurn) -> int:
    """How many calls of tools the turn's readers were told the result of, in all attempts."""
    return sum(line.startswith(TOOL_RESULT) for line in turn.events.lines)
