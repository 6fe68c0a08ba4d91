"""Mining: messages are divided fairly, shapes are found where they stand, a rule is found by the engine exactly where the miner says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.workflow.load import load_text
from lightweight.matching.compile import compile_rules
from loadtests.mining.candidates import GAPS, bits, candidates, shapes_of, written
from loadtests.mining.cover import Taste, answered, choose, silencing, trust
from loadtests.mining.messages import Message, divide, read_messages
from loadtests.mining.offtopic import questions
from loadtests.mining.words import CONCEPTS, LITTLE, Words

WORDS = Words(CONCEPTS)
LOST = [
    "i lost my card",
    "my card is lost",
    "help, my card was lost",
    "i think i lost the card today",
    "lost my bank card",
    "card lost on a train",
]
PIN = [
    "how do i change my pin",
    "change my pin please",
    "can i change the pin",
    "where do i change my card pin",
    "pin change",
    "i must change my pin",
]
TEXTS = LOST + PIN
LABELS = ["lost"] * len(LOST) + ["pin"] * len(PIN)


def messages(n: int = 10) -> list[Message]:
    return [Message(f"{name} number {i}", name) for name in ("a", "b") for i in range(n)]


def test_both_parts_hold_the_same_share_of_every_category() -> None:
    training, held = divide(messages(), 0.2, 7)
    assert [sum(m.category == c for m in held) for c in "ab"] == [2, 2]
    assert sorted(m.text for m in training + held) == sorted(m.text for m in messages())


def test_the_division_depends_on_the_seed_and_not_on_the_order() -> None:
    assert divide(messages(), 0.2, 7) == divide(messages()[::-1], 0.2, 7)
    assert divide(messages(), 0.2, 7) != divide(messages(), 0.2, 8)


def test_a_text_that_occurs_twice_stands_on_one_side_only() -> None:
    twins = [Message(text, "a") for i in range(30) for text in (f"What is {i}?", f"what  is {i}?")]
    training, held = divide(twins, 0.5, 1)
    assert {m.text.lower().replace("  ", " ") for m in training}.isdisjoint(m.text.lower().replace("  ", " ") for m in held)


def test_messages_without_the_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("question,label\nhi,x\n")
    with pytest.raises(ValueError, match="no column category and text"):
        read_messages(tmp_path / "m.csv")


def test_messages_are_read_with_their_quotes_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('text,category\n"one, ""two""\nthree",x\n,x\n', encoding="utf-8")
    assert read_messages(tmp_path / "m.csv") == [Message('one, "two"\nthree', "x")]


@pytest.mark.parametrize("pattern", CONCEPTS.values())
def test_a_concept_is_short_and_a_regular_expression(pattern: str) -> None:
    assert len(pattern) <= 70
    assert re.compile(pattern).fullmatch("") is None


@pytest.mark.parametrize(
    "text", ["where's the atm? i can't withdraw £20 in the u.k.", "pin", "", "top-up   failed!!", "my card's pin hasn’t arrived"]
)
def test_every_shape_of_a_text_is_found_in_it_by_its_pattern(text: str) -> None:
    text = " ".join(text.split())
    for shape in shapes_of(WORDS.see(text), len(text)):
        assert re.search(written(shape), text), (shape, written(shape))


def test_little_words_stand_only_beside_their_neighbours() -> None:
    far = {atom for gap, atoms in shapes_of(WORDS.see("the pin of my card is not the old one"), 37) if gap == GAPS[1] for atom in atoms}
    assert far.isdisjoint(rf"\b{word}\b" for word in LITTLE)


def mined() -> tuple[dict[str, list[str]], dict[str, int]]:
    every = range(len(TEXTS))
    found = candidates(TEXTS, LABELS, WORDS, support=3, purity=0.6, learn=every)
    of = {label: bits(i for i in every if LABELS[i] == label) for label in ("lost", "pin")}
    taste = Taste(trust=0.5, gain=1.0)
    chosen = choose(found, of, bits(every), taste)
    silent = silencing(chosen, found, {}, of, bits(every), Taste(vetoes=0))
    return {c: [r.pattern for r in rules] for c, rules in chosen.items()}, answered(chosen, silent, {})


def test_rules_are_mined_and_answer_their_own_category() -> None:
    rules, speaks = mined()
    assert set(rules) == {"lost", "pin"}
    assert speaks["lost"] & ~bits(range(len(LOST))) == 0
    assert speaks["lost"].bit_count() + speaks["pin"].bit_count() >= 10


def test_the_engine_finds_a_rule_where_the_miner_found_it() -> None:
    rules, speaks = mined()
    flows = [{"flow_id": c, "trigger_patterns": patterns, "response_template": "x"} for c, patterns in rules.items()]
    matcher = compile_rules(load_text(json.dumps({"ambiguous": "escalate", "flows": flows}), "w.json", {}))
    for category, told in speaks.items():
        matches = [matcher.match(text) for text in TEXTS]
        assert bits(i for i, m in enumerate(matches) if m and not m.ambiguous and m.action.id == category) == told


def test_a_rule_seen_often_is_trusted_more_than_one_seen_three_times() -> None:
    texts = LOST * 6 + PIN
    found = candidates(texts, ["lost"] * len(LOST) * 6 + ["pin"] * len(PIN), WORDS, support=3, purity=0.6, learn=range(len(texts)))
    best = {c.category: max(trust(x) for x in found if x.category == c.category) for c in found}
    assert best["lost"] > best["pin"]


def test_what_was_not_learnt_from_is_found_but_not_counted() -> None:
    found = candidates(TEXTS, LABELS, WORDS, support=3, purity=0.6, learn=[0, 1, 2, 3, 6, 7, 8, 9])
    assert max(c.right for c in found) <= 4
    assert any(c.found.bit_count() > c.hits for c in found)


def test_off_topic_questions_are_many_and_no_template_is_learnt_and_examined() -> None:
    learn, exam = questions("learn"), questions("exam")
    assert len(exam) >= 290
    assert set(learn).isdisjoint(exam)
    assert questions("exam") == exam
