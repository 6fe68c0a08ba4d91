"""Overlaps, shadows and rules that refuse themselves: found by example, silent where the author has decided, and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from common.workflow.schema import Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.overlap import Overlaps, find_overlaps


def flow(flow_id: str, *patterns: str, **fields: Any) -> dict[str, Any]:
    return {"flow_id": flow_id, "trigger_patterns": list(patterns), "response_template": "x", **fields}


def search(*flows: dict[str, Any], said: tuple[str, ...] = (), max_work: int = 300_000, **top: Any) -> tuple[Workflow, Overlaps]:
    workflow = Workflow.model_validate({"flows": list(flows), **top})
    return workflow, find_overlaps(workflow, compile_rules(workflow), said, max_work=max_work)


def told(*flows: dict[str, Any], **options: Any) -> list[str]:
    """`a>b` where a overlaps and wins, `a>>b` where b is shadowed by a, `!a` where a refuses itself; examples are checked on the way."""
    workflow, found = search(*flows, **options)
    matcher = compile_rules(workflow)
    name = [rule.action.id for rule in matcher.rules]
    lines = []
    for overlap in found.overlaps:
        assert {overlap.winner, overlap.loser} <= {v.index for v in matcher.verdicts(overlap.text)}
        lines.append(f"{name[overlap.winner]}>{name[overlap.loser]}")
    for shadow in found.shadows:
        assert shadow.rule in {v.index for v in matcher.verdicts(shadow.text)}
        lines.append(f"{'+'.join(sorted({name[w] for w in shadow.winners}))}>>{name[shadow.rule]}")
    lines += [f"!{name[refused.rule]}" for refused in found.refused]
    return sorted(lines)


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        ([flow("a", "hours"), flow("b", "refund")], []),
        ([flow("a", "vip hours"), flow("b", "hours")], ["a>b"]),
        ([flow("a", "hours"), flow("b", "vip hours")], ["a>>b"]),
        ([flow("a", "refund.*order"), flow("b", "order.*refund")], ["a>b"]),
        ([flow("a", "refund order"), flow("b", "order status")], ["a>b"]),
        ([flow("a", "order"), flow("b", "parcel"), flow("c", "(order|parcel) status")], ["a+b>>c"]),
        ([flow("a", "order"), flow("b", "(order|parcel|gift) status")], ["a>b"]),
        ([flow("a", r"order \d+"), flow("b", r"order (?P<id>\d{4})")], ["a>>b"]),
        ([flow("a", r"\border\b"), flow("b", "order")], ["a>b"]),
        ([flow("a", "^order$"), flow("b", "order")], ["a>b"]),
        ([flow("a", "hours"), flow("b", "HOURS", match_type="exact")], ["a>>b"]),
        ([flow("a", "hours", match_type="exact"), flow("b", "hours")], ["a>b"]),
        ([flow("a", "退款"), flow("b", "退款.*订单")], ["a>>b"]),
        ([flow("a", "hours", "opening hours")], []),
        ([flow("a", "hours"), flow("b", "vip hours", "opening hours")], ["a>>b", "a>>b"]),
    ],
)
def test_what_overlaps_is_told_once_a_pair(flows: list[dict[str, Any]], expected: list[str]) -> None:
    assert told(*flows) == expected


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        # a priority is a decision: the special rule goes first
        ([flow("a", "hours"), flow("b", "vip hours", priority=5)], []),
        ([flow("b", "vip hours"), flow("a", "hours", priority=5)], ["a>>b"]),
        ([flow("a", "hours", exclude_patterns=["vip"]), flow("b", "vip hours")], []),
        ([flow("a", "hours", when={"language": "zh"}), flow("b", "hours", when={"language": ["en", "de"]})], []),
        ([flow("a", "hours", when={"context": {"plan": "gold"}}), flow("b", "hours", when={"context": {"plan": "free"}})], []),
        ([flow("a", "hours", when={"days": [6, 7]}), flow("b", "hours", when={"days": [1, 2]})], []),
        ([flow("a", "hours", when={"between": ["22:00", "06:00"]}), flow("b", "hours", when={"between": ["06:00", "22:00"]})], []),
        ([flow("a", "hours", when={"between": ["22:00", "06:00"]}), flow("b", "hours", when={"between": ["05:00", "22:00"]})], ["a>b"]),
        ([flow("a", "hours", when={"context": {"plan": "gold"}}), flow("b", "hours")], ["a>b"]),
        ([flow("a", "hours", when={"days": [1]}), flow("b", "vip hours", when={"days": [1]})], ["a>>b"]),
        # in the middle of a conversation only the second answers
        ([flow("a", "stop"), flow("b", "stop it", interrupts=True)], ["a>b"]),
        ([flow("a", "refund", exclude_patterns=["Refund"]), flow("b", "hours")], ["!a"]),
        ([flow("a", "order", r"order (?P<id>\d+)", required_groups=["id"])], ["!a"]),
    ],
)
def test_conditions_priorities_and_excludes_count(flows: list[dict[str, Any]], expected: list[str]) -> None:
    assert told(*flows) == expected


def test_what_people_wrote_shows_overlaps_that_patterns_do_not() -> None:
    flows = (flow("a", "cancel"), flow("b", r"\border\b"))
    assert told(*flows) == []
    _, found = search(*flows, said=("please cancel my order",))
    assert [overlap.text for overlap in found.overlaps] == ["please cancel my order"]


def test_a_rule_with_one_text_of_its_own_is_not_shadowed() -> None:
    words = [f"w{i}x" for i in range(150)]
    assert told(flow("a", *words[:-1]), flow("b", f"({'|'.join(words)}) status")) == ["a>b"]
    assert told(flow("a", *words), flow("b", f"({'|'.join(words)}) status")) == ["a>>b"]


def test_an_agent_that_escalates_means_its_overlaps() -> None:
    assert told(flow("a", "vip hours"), flow("b", "hours"), ambiguous="escalate") == []
    assert told(flow("a", "hours"), flow("b", "vip hours"), ambiguous="escalate") == ["a>>b"]


def test_the_work_is_bounded_however_broad_the_rules_are() -> None:
    flows = [flow(f"f{i}", f".*a{i}?") for i in range(600)]
    _, found = search(*flows, max_work=20_000)
    assert not found.complete


def test_a_thousand_distinct_rules_are_looked_at_to_the_end() -> None:
    flows = [flow(f"f{i}", f"word{i}x.*thing{i}x") for i in range(1000)]
    _, found = search(*flows)
    assert found == Overlaps()
