"""The log line of a turn that has ended here: what happened in it, with the figures that the database has. It holds nobody's words."""

from __future__ import annotations

import logging
from typing import Any

from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import Finish, TurnRow

TOOL_RESULT = b'{"type":"tool_result"'
log = logging.getLogger(__name__)


def tell(row: TurnRow, turn: OwnedTurn, finish: Finish, ended_at: float) -> None:
    """Writes the line. `ended_at` is the database's time of the end."""
    log.info("turn ended", extra=figures(row, turn, finish, ended_at))


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
