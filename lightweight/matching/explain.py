"""Why a text is routed as it is: the same decision as `match`, told with every candidate. Calls nothing and knows no session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from common.workflow.schema import Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.fold import fold, fold_pattern
from lightweight.matching.match import Match, Matcher, Rule

RUNS = 9


def explain(
    subject: Workflow | Matcher, text: str, context: Mapping[str, Any] | None = None, *, in_conversation: bool = False
) -> dict[str, Any]:
    """What `loadsplit match` prints: the route by rule alone, every rule that is found with its outcome, the folded text.

    `micros` are the microseconds of one match, the median of a few after the first: RE2 builds its automata on first use.
    """
    matcher = compile_rules(subject) if isinstance(subject, Workflow) else subject
    match = matcher.match(text, context=context, in_conversation=in_conversation)
    chosen = match if match and not match.ambiguous else None
    return {
        "tier": matcher.rules[chosen.index].tier if chosen else "heavy",
        "action_type": chosen.kind if chosen else "message",
        "action_target": chosen.action.id if chosen else None,
        "matched_by": "rule" if chosen else "none",
        "pattern": chosen.pattern if chosen else None,
        "groups": dict(chosen.groups) if chosen else {},
        "candidates": _candidates(matcher, text, context, match, in_conversation=in_conversation),
        "folded": fold(text),
        "micros": round(median(_micros(matcher, text, context, in_conversation=in_conversation) for _ in range(RUNS)), 1),
    }


def _micros(matcher: Matcher, text: str, context: Mapping[str, Any] | None, *, in_conversation: bool) -> float:
    begun = time.perf_counter_ns()
    matcher.match(text, context=context, in_conversation=in_conversation)
    return (time.perf_counter_ns() - begun) / 1000


def _candidates(
    matcher: Matcher, text: str, context: Mapping[str, Any] | None, match: Match | None, *, in_conversation: bool
) -> list[dict[str, Any]]:
    return [
        {
            "action_type": verdict.rule.kind,
            "action_target": verdict.rule.action.id,
            "pattern": verdict.rule.pattern,
            "priority": verdict.rule.priority,
            "groups": dict(verdict.groups),
            "outcome": f"lost: {as_written(verdict.rule, verdict.reason)}"
            if verdict.reason is not None
            else _ranked(matcher, verdict.index, match),
        }
        for verdict in matcher.verdicts(text, context=context, in_conversation=in_conversation)
    ]


def as_written(rule: Rule, reason: str) -> str:
    """The reason of a verdict, naming an exclude pattern as its author wrote it."""
    for written in rule.action.exclude_patterns:
        if reason == f"excluded by {fold_pattern(written)}":
            return f"excluded by {written}"
    return reason


def _ranked(matcher: Matcher, index: int, match: Match | None) -> str:
    """How a rule that may answer stands to the first of them."""
    rule, top = matcher.rules[index], matcher.rules[match.index] if match else None
    if match is None or top is None or (index == match.index and not match.ambiguous):
        return "won"
    if rule.priority < top.priority:
        return f"lost: lower priority than {top.kind} {top.action.id}"
    if match.ambiguous:
        return "lost: ambiguous, the LLM chooses"
    if rule.action is top.action:
        return "lost: another pattern of the same action comes first"
    return f"lost: defined later than {top.kind} {top.action.id}"
