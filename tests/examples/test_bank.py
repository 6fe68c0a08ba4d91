"""The bank example: it loads without errors, its tests hold, its rules can be read by a person, and talk of other things meets none."""

from __future__ import annotations

import json
import re
from pathlib import Path

from common.workflow.load import load_text
from examples.bank.mine import excludes, flows, mine
from lightweight.matching.compile import compile_rules
from loadtests.mining.cover import Taste
from loadtests.mining.messages import Message
from loadtests.mining.offtopic import questions
from standalone.commands.check import check
from standalone.commands.evaluate import evaluate

FOLDER = Path(__file__).parents[2] / "examples" / "bank"
FILE = FOLDER / "workflow.json"
EXAMPLE = load_text(FILE.read_text(encoding="utf-8"), str(FILE), {})
ANSWERS = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))


def test_it_has_no_errors_and_its_tests_hold() -> None:
    checked = check([FILE], {})
    assert [str(p) for p in checked.problems if p.level == "error"] == []
    assert [(t.name, t.reasons) for t in checked.tests if t.outcome != "passed"] == []


def test_it_answers_every_category_and_has_many_tests() -> None:
    assert [f.id for f in EXAMPLE.flows] == list(ANSWERS)
    assert len(ANSWERS) == 77
    assert len(EXAMPLE.tests) >= 60
    assert sum((t.name or "").startswith("NOT") for t in EXAMPLE.tests) >= 12
    assert EXAMPLE.ambiguous == "escalate"


def test_a_person_can_read_every_rule() -> None:
    for flow in EXAMPLE.flows:
        for pattern in (*flow.trigger_patterns, *flow.exclude_patterns):
            assert len(pattern) <= 160, pattern
        for pattern in flow.trigger_patterns:
            assert all(len(group) <= 70 for group in re.findall(r"\(\?:[^()]*(?:\([^()]*\)[^()]*)*\)", pattern)), pattern
            assert len(re.findall(r"\.\{0,30\}|\\W\{", pattern)) <= 4, pattern


def test_at_most_one_in_a_hundred_off_topic_questions_is_swallowed() -> None:
    result = evaluate(compile_rules(EXAMPLE), [], questions("exam"))
    assert result.off_topic_rate <= 0.01, result.swallowed


def test_the_frame_and_the_answers_are_what_the_file_was_made_of() -> None:
    frame = json.loads((FOLDER / "frame.json").read_text(encoding="utf-8"))
    made = json.loads(FILE.read_text(encoding="utf-8"))
    assert {k: v for k, v in made.items() if k != "flows"} == {k: v for k, v in frame.items() if k != "flows"}
    assert {f["flow_id"]: f["response_template"] for f in made["flows"]} == {k: a["answer"] for k, a in ANSWERS.items()}


def test_mining_gives_the_same_rules_again_and_they_answer_what_was_learnt() -> None:
    said = ("please block my lost card {}", "i lost my card {}", "how do i change my pin {}", "my pin must change {}")
    places = ("today", "in town", "at the shop", "on holiday", "in a taxi", "at work")
    training = [Message(text.format(place), "lost" if "lost" in text else "pin") for text in said for place in places]
    taste = Taste(trust=0.5)
    rules, speaks, rest = mine(training, ["what is the weather today"], taste)
    assert flows(rules, {c: {"name": c, "answer": "x"} for c in ("lost", "pin")}) == flows(
        mine(training, ["what is the weather today"], taste)[0], {c: {"name": c, "answer": "x"} for c in ("lost", "pin")}
    )
    assert {c: b.bit_count() for c, b in speaks.items()} == {"lost": 12, "pin": 12}
    assert rest == 0


def test_silencing_words_are_written_in_short_lines() -> None:
    lines = excludes([r"\btransf", r"\bfee\b", *(rf"\bword{i}\b" for i in range(30))])
    assert lines[0].startswith(r"\b(?:transf|fee\b|")
    assert max(map(len, lines)) <= 100
    assert all(re.compile(line) for line in lines)
