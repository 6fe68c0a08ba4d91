"""What the page of rules tells: hits of every pattern, and words that came often without a rule."""

from __future__ import annotations

from typing import Any

from common.workflow.schema import Workflow
from heavy.admin.rules import hits, suggested

WORKFLOW = Workflow.model_validate(
    {
        "agent_id": "shop",
        "flows": [
            {"flow_id": "hours", "trigger_patterns": ["opening hours", "when .* open"], "response_template": "At 9."},
            {"flow_id": "price", "trigger_patterns": ["price"], "priority": 5, "response_template": "Cheap."},
        ],
    }
)


def hit(target: str, pattern: str, count: int, matched_by: str = "rule") -> dict[str, Any]:
    head = {"agent_id": "shop", "matched_by": matched_by, "action_type": "flow", "action_target": target, "pattern": pattern}
    return {**head, "hits": count, "last_at": 1000.0 + count}


def turn(message: str, matched_by: str | None) -> dict[str, Any]:
    route = {"matched_by": matched_by, "action_type": "flow", "action_target": "hours"} if matched_by else None
    return {"message_start": message, "route": route}


def test_every_pattern_has_its_hits_and_those_that_were_never_hit_are_there() -> None:
    counted = [hit("hours", "opening hours", 3), hit("gone", "old words", 1), hit("hours", "opening hours", 9, "learned")]
    rows = [(r["target"], r["pattern"], r["hits"], r["last_at"], r["gone"]) for r in hits(WORKFLOW, counted)]
    assert rows == [
        ("hours", "opening hours", 3, 1003.0, False),
        ("gone", "old words", 1, 1001.0, True),
        ("hours", "when .* open", 0, None, False),
        ("price", "price", 0, None, False),
    ]


def test_words_that_came_often_are_suggested_with_what_they_would_take() -> None:
    unmatched = [
        {"message": "please cancel my invoice 17", "turns": 3},
        {"message": "can you cancel the invoice 99", "turns": 2},
        {"message": "hello", "turns": 50},
        {"message": "something else entirely", "turns": 1},
    ]
    log = [turn("cancel invoice 5", "llm"), turn("cancel this invoice, what are your opening hours?", "rule"), turn("x", None)]
    (found,) = suggested(unmatched, log)
    assert (found.pattern, found.times, len(found.messages)) == (r"\bcancel\b.*\binvoice\b", 5, 2)
    assert (found.rightly, found.wrongly) == (1, 1)
    assert suggested([], log) == []
