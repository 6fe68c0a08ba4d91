"""Example texts that are written from patterns: RE2 finds the pattern in them, they differ, and their number and length are bounded."""

from __future__ import annotations

import pytest

from common.workflow.schema import Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.samples import MAX_LENGTH, example_texts
from lightweight.matching.syntax import NotRead, read_pattern

PATTERNS = [
    "opening hours",
    "refund.*order",
    r"where is (my )?order\s+#?(?P<order_id>[A-Za-z0-9-]+)",
    r"订单\s*(?P<order_id>[A-Za-z0-9-]+)\s*(在哪|到哪)",
    r"\b(?:is|are) (?P<item>[a-z0-9 -]{3,40}?) (?:still |currently )?in stock\b",
    r"^\s*(good ?bye|bye|see you)\s*[!.]*\s*$",
    r"请.*天假",
    r"\QA+B (x)\E$",
    r"[[:alpha:]]{2}[[:^digit:]]\pN\p{Han}\PL",
    r"\x41\x{42}\u8ba2\U00008ba2\.\t",
    r"(?i)ABC(?i:d|e)(?<n>f)+?",
    r"[^a-z]x[^\s,]y[]a]z[a\-z]",
    r"\w+@\w+\.(com|org)",
    r"a{3}b{2,}c{0,2}d{,2}",
    r"(a|b|)(c|(d|e)f)*\z",
    r"[À-Ö]+[ｱ-ﾝ]?",
    "",
]


def found(pattern: str) -> list[str]:
    """The example texts in which the real matcher finds the pattern."""
    flow = {"flow_id": "f", "trigger_patterns": [pattern or "(?:)"], "response_template": "x"}
    matcher = compile_rules(Workflow.model_validate({"flows": [flow]}))
    return [text for text, _ in example_texts(pattern, count=16) if matcher.match(text)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_matcher_finds_the_pattern_in_its_examples(pattern: str) -> None:
    assert len(found(pattern)) >= 3


def test_the_first_example_is_one_that_a_person_would_write() -> None:
    assert found("refund.*order")[0] == "refund order"
    assert found(r"where is (my )?order #?(?P<id>[A-Z]\d{4})")[0] == "where is order A1002"
    assert found("(开门|营业).{0,4}时间")[0] == "开门 时间"


def test_every_option_comes_up() -> None:
    texts = " ".join(found("(red|green|blue) (kettle|lamp)s?"))
    assert all(word in texts for word in ("red", "green", "blue", "kettle", "lamp", "kettles"))


def test_literal_rules_are_their_own_example() -> None:
    assert next(example_texts("what (?!", "contains")) == ("what (?!", True)
    assert [bare for _, bare in example_texts("ping", "exact", count=2)] == [True]


def test_examples_are_the_same_every_time() -> None:
    every = list(example_texts("a.*(b|c)[d-z]+", count=20))
    assert list(example_texts("a.*(b|c)[d-z]+", count=20)) == every
    first, later = (set(example_texts("a.*(b|c)[d-z]+", first=n, count=10)) for n in (0, 10))
    assert first | later == set(every)
    assert later - first


@pytest.mark.parametrize(
    "pattern", ["x{1000}", "(ab{200}){200}", "(" * 500 + "a" + ")" * 500, "(((a{9}){9}){9}){9}", "[^\\x{0}-\\x{10ffff}]"]
)
def test_what_is_too_large_or_empty_has_no_example(pattern: str) -> None:
    assert list(example_texts(pattern)) == []


@pytest.mark.parametrize("pattern", ["(a", "a)", "[a", "(?<=a)b", "\\", "\\y", "[[:nope:]]", "\\x{110000}"])
def test_what_cannot_be_read_is_said(pattern: str) -> None:
    with pytest.raises(NotRead):
        read_pattern(pattern)
    assert list(example_texts(pattern)) == []


def test_no_example_is_longer_than_told() -> None:
    texts = [text for text, _ in example_texts("(long words ){5,}.*(x{50}|y){0,9}", count=40)]
    assert texts
    assert max(map(len, texts)) <= MAX_LENGTH + 10
