"""The log line of a turn that a rule answered, for a share of them: at ten thousand a second the log would cost more than the rules."""

from __future__ import annotations

import logging
import random
from time import perf_counter

import orjson

from lightweight.agents import Agent
from lightweight.answer import Answer, Turn

log = logging.getLogger(__name__)


class TurnLines:
    """Writes them. Where the share is 0 there is none of these (`turn_lines`)."""

    def __init__(self, share: float) -> None:
        self._share = share

    def tell(self, agent: Agent, turn: Turn, answer: Answer | bytes, matched: float, began: float) -> None:
        """One turn, or none; `matched` is seconds, `began` by perf_counter. Bytes are a reply given again."""
        if self._share < 1 and random.random() >= self._share:
            return
        reply = orjson.loads(answer if isinstance(answer, bytes) else answer.reply)
        route = reply["route"]
        log.info(
            "turn ended",
            extra={
                "turn_id": turn.turn_id,
                "request_id": turn.request_id,
                "tenant": turn.tenant,
                "session_id": turn.query.session_id,
                "agent_id": agent.workflow.agent_id,
                "status": "done",
                "replayed": isinstance(answer, bytes),
                "tier": route["tier"],
                "action_type": route["action_type"],
                "action_target": route["action_target"],
                "matched_by": route["matched_by"],
                "config_hash": reply["config_hash"],
                "llm_calls": 0,
                "tool_calls": 0,
                "match_ms": round(matched * 1000, 3),
                "ms": round((perf_counter() - began) * 1000, 3),
            },
        )


def turn_lines(share: float) -> TurnLines | None:
    """What writes the lines of so many turns, None for none of them."""
    return TurnLines(share) if share > 0 else None
