"""The evaluation command: what it counts, what it prints, and that its bounds fail it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.workflow.load import load_text
from lightweight.matching.compile import compile_rules
from loadtests.mining.messages import Message
from standalone.commands.evaluate import evaluate, interval, main, render, route

WORKFLOW = {
    "ambiguous": "escalate",
    "flows": [
        {"flow_id": "lost_card", "trigger_patterns": ["\\blost\\b.{0,20}\\bcard"], "response_template": "Block it."},
        {"flow_id": "change_pin", "trigger_patterns": ["\\bchang.{0,20}\\bpin\\b"], "response_template": "At a machine."},
    ],
    "system_actions": [{"action_id": "human", "name": "Human", "handler": "handoff", "trigger_patterns": ["^human$"]}],
}
MESSAGES = [
    Message("I lost my card", "lost_card"),
    Message("lost the card and how do I change my PIN", "lost_card"),
    Message("change my PIN", "change_pin"),
    Message("I can't change my pin at the machine", "pin_blocked"),
    Message("human", "lost_card"),
    Message("what is this charge", "extra_charge"),
]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    rows = "".join(f"{m.text},{m.category}\n" for m in MESSAGES)
    (tmp_path / "m.csv").write_text("text,category\n" + rows)
    return [str(tmp_path / "w.json"), "--messages", str(tmp_path / "m.csv"), "--held-back", "0"]


def test_what_is_answered_rightly_wrongly_and_left() -> None:
    result = evaluate(compile_rules(load_text(json.dumps(WORKFLOW), "w.json", {})), MESSAGES, ["I lost a card game", "hello"])
    assert (result.messages, result.answered, result.right, result.ambiguous) == (6, 3, 2, 1)
    assert (result.coverage, round(result.precision, 3)) == (0.5, 0.667)
    assert result.confusions == [("change_pin", "pin_blocked", 1, "I can't change my pin at the machine")]
    assert result.swallowed == [("I lost a card game", "lost_card")]
    assert result.categories["change_pin"].wrong == 1


def test_a_rule_that_needs_the_heavy_tier_answers_nothing_here() -> None:
    assert route(compile_rules(load_text(json.dumps(WORKFLOW), "w.json", {})), "human") == (None, False)


def test_no_message_at_all_is_no_error() -> None:
    result = evaluate(compile_rules(load_text(json.dumps(WORKFLOW), "w.json", {})), [])
    assert (result.coverage, result.precision, result.off_topic_rate) == (0.0, 1.0, 0.0)
    assert "0 messages" in render(result, "nothing")


def test_the_command_prints_for_people_and_writes_json(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--off-topic", "--out", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "answered by a rule" in printed
    assert "change_pin → pin_blocked" in printed
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["coverage"] == 0.5
    assert document["off_topic"] >= 290


@pytest.mark.parametrize("bound", [["--min-coverage", "0.6"], ["--min-precision", "0.9"]])
def test_a_bound_that_does_not_hold_fails(files: list[str], bound: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, *bound]) == 1
    assert "not at least" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [0, 2])
def test_a_file_that_is_not_there_is_said_plainly(files: list[str], broken: int, capsys: pytest.CaptureFixture[str]) -> None:
    files[broken] = "/nowhere/at/all"
    assert main(files) == 2
    assert capsys.readouterr().err.startswith("evaluate: ")


def test_the_interval_is_wilsons() -> None:
    low, high = interval(970, 1000)
    assert (round(low, 4), round(high, 4)) == (0.9575, 0.9789)
    assert interval(0, 0) == (0.0, 1.0)
