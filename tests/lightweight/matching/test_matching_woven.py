"""Words and gaps: which patterns are of that form, and that the same texts are found as RE2 finds."""

from __future__ import annotations

import random

import pytest
import re2

from common.workflow.schema import Flow, Workflow
from lightweight.matching.compile import _options, compile_rules
from lightweight.matching.fold import fold, fold_pattern
from lightweight.matching.woven import is_in, read_woven, words_of

WOVEN = [
    "refund",
    "lost.*card",
    "lost.+card",
    "(lost|stolen) (card|phone)",
    "(?:lost|stolen).*(?:card|phone)|where.*money",
    "Größe.*Straße",
    "退款.*(进度|多久)",
    r"c\+\+.*\(beta\)",
    r"a\|b|c",
    ".*card.*",
    "card.+",
    ".+",
    ".*?a.+?b",
    "(card)s",
    "a||b",
    "a.*.+b",
    "aa.*a",
]
OTHERS = [
    "cards?",
    r"\bcard\b",
    "^card",
    "card$",
    "c[ao]rd",
    "card{2}",
    "(card)+",
    "(card|)x",
    "(?i)card",
    r"\d+",
    "a.b",
    "a.{0,4}b",
    "(?P<what>card|phone)",
    "((a|b)|c)",
    ".",
    "a.**",
    "a.*{2}",
    "(a|b|c|d|e|f|g|h)(a|b|c|d|e|f|g|h)",  # too many words
]
TEXTS = ["", "card", "my card was lost", "lostcard", "LOST\u3000CARD", "grösse der strasse", "c++ (beta)", "a|b", "aaa", "aa", "x"]


@pytest.mark.parametrize("pattern", WOVEN)
def test_what_is_woven_is_found_where_re2_finds_it(pattern: str) -> None:
    source = fold_pattern(pattern)
    ways, regexp, chance = read_woven(source), re2.compile(source, _options()), random.Random(pattern)
    assert ways is not None
    pieces = ["lost", "card", "a", "b", "退款", "进度", "where", "money", "phone", " ", " ", "c++", "(beta)", "größe", "straße", "|", "c"]
    made = ["".join(chance.choices(pieces, k=chance.randrange(8))) for _ in range(300)]
    for text in map(fold, [*TEXTS, *made, words_of(ways)]):
        assert is_in(ways, text) == bool(regexp.search(text)), text


@pytest.mark.parametrize("pattern", OTHERS)
def test_all_else_is_left_to_re2(pattern: str) -> None:
    assert read_woven(fold_pattern(pattern)) is None


def test_no_two_characters_of_folded_texts_are_the_same_letter() -> None:
    """RE2 looks at letters without their case, a search for words at characters: in folded texts that is the same."""
    stable = {c for c in map(chr, [*range(0xD800), *range(0xE000, 0x20000)]) if fold(c) == c}
    for c in stable:
        assert not ({c.lower(), c.upper(), c.title(), c.casefold()} - {c}) & stable, c


@pytest.mark.parametrize("more", [[], ["mone[y]", "x[yz]", "[0-9]{9}"]])
def test_rules_of_both_forms_win_in_their_order(more: list[str]) -> None:
    patterns = ["lost.*card", r"\bcard\b", "card", r"\d+ cards?", "money", *more]
    flows = tuple(Flow(flow_id=f"f{n}", trigger_patterns=(p,), response_template="x") for n, p in enumerate(patterns))
    matcher = compile_rules(Workflow(agent_id="a", flows=flows))
    for text, found in (
        ("I lost my card", [0, 1, 2]),
        ("discarded", [2]),
        ("3 cards, no money", [2, 3, 4]),
        ("card, lost", [1, 2]),
    ):
        match = matcher.match(text)
        assert match is not None
        assert match.index == found[0]
        assert [verdict.index for verdict in matcher.verdicts(text) if verdict.index < 5] == found
