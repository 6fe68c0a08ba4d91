"""`loadsplit check --replay`: which past messages a new version of a file routes otherwise, and what a log may look like."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from common.workflow.schema import Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.match import Matcher
from standalone.commands.check import WrongCall, check, run
from standalone.commands.replay import LogInvalid, Said, read_log, replay
from standalone.commands.report import render_json, render_pretty

OLD = {
    "fallback_message": "Sorry.",
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "At 9."},
        {"flow_id": "order", "trigger_patterns": ["order (?P<id>[a-z]\\d)"], "response_template": "{id}"},
        {"flow_id": "refund", "trigger_patterns": ["refund"], "response_template": "x"},
        {"flow_id": "gold", "trigger_patterns": ["perks"], "when": {"context": {"plan": "gold"}}, "response_template": "x"},
    ],
}
NEW = {
    "fallback_message": "Sorry.",
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "At 9."},
        {"flow_id": "order", "trigger_patterns": ["order (?P<id>[a-z]\\d+)"], "response_template": "{id}"},
        {"flow_id": "gold", "trigger_patterns": ["perks"], "when": {"context": {"plan": "gold"}}, "response_template": "x"},
        {"flow_id": "returns", "trigger_patterns": ["refund.*order"], "response_template": "x"},
    ],
}
LOG: list[dict[str, Any]] = [
    {"message": "your opening hours?", "session_id": "s1"},
    {"message": "it took me hours", "session_id": "s1"},
    {"message": "It took  hours!", "session_id": "s2"},
    {"message": "it took me hours", "session_id": "s3"},
    {"message": "refund please"},
    {"message": "refund my order"},
    {"message": "order A12", "session_id": "s4"},
    {"message": "my perks", "context": {"plan": "gold"}},
    {"message": "my perks", "context": {"plan": "free"}},
]
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def rules(doc: dict[str, Any]) -> Matcher:
    return compile_rules(Workflow.model_validate(doc))


def written(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The new file, the old file, the log."""
    paths = tmp_path / "new.json", tmp_path / "old.json", tmp_path / "log.jsonl"
    paths[0].write_text(json.dumps(NEW), encoding="utf-8")
    paths[1].write_text(json.dumps(OLD), encoding="utf-8")
    paths[2].write_text("\n".join(json.dumps(line) for line in LOG) + "\n\n", encoding="utf-8")
    return paths


def test_every_change_is_counted_with_examples(tmp_path: Path) -> None:
    replayed = replay(read_log(written(tmp_path)[2]), rules(NEW), rules(OLD), NOW)
    assert replayed.changes() == {"newly_answered": 3, "no_longer_answered": 1, "moved": 1, "groups": 1}
    assert [(m.change, m.before, m.after, m.count) for m in replayed.moved] == [
        ("newly_answered", "no rule", "flow hours", 3),
        ("no_longer_answered", "flow refund", "no rule", 1),
        ("moved", "flow refund", "flow returns", 1),
        ("groups", "flow order", "flow order", 1),
    ]
    # the same message is one example
    assert replayed.moved[0].examples == [
        {"line": 2, "message": "it took me hours", "session_id": "s1"},
        {"line": 3, "message": "It took  hours!", "session_id": "s2"},
    ]
    assert replayed.moved[3].examples == [
        {"line": 7, "message": "order A12", "session_id": "s4", "groups_before": {"id": "A1"}, "groups": {"id": "A12"}}
    ]
    assert (replayed.messages, replayed.sessions, replayed.sessions_touched) == (9, 8, 6)
    assert sum(replayed.answered.values()) == 7
    assert replayed.before is not None
    assert sum(replayed.before.values()) == 5


def test_one_version_alone_is_counted() -> None:
    replayed = replay([Said(1, "opening hours"), Said(2, "hello")], rules(OLD))
    assert replayed.as_dict() == {"messages": 2, "answered_by_rule": 1, "by_action": {"flow hours": 1}}


def test_rules_that_hand_over_to_the_llm_answer_nothing() -> None:
    doc = {
        **NEW,
        "ambiguous": "escalate",
        "flows": [*NEW["flows"], {"flow_id": "x", "trigger_patterns": ["hours"], "response_template": "x"}],
    }
    assert replay([Said(1, "hours")], rules(doc), rules(NEW)).changes()["no_longer_answered"] == 1


def test_the_outputs_tell_the_diff(tmp_path: Path) -> None:
    new, old, log = written(tmp_path)
    checked = check([new], {}, log=log, against=old)
    told = render_pretty(checked)
    assert "replay: of 9 messages 5 of 9 (55.6 %) were answered by a rule, now 7 of 9 (77.8 %)" in told
    assert "replay: 6 messages in 6 of 8 sessions are routed otherwise" in told
    assert "  3 newly answered by a rule (was the LLM's):\n        3  no rule -> flow hours\n" in told
    assert "line 7: 'order A12'  {'id': 'A1'} -> {'id': 'A12'}" in told
    assert json.loads(render_json(checked))["replay"]["changes"]["moved"] == 1
    assert checked.exit_code == 0
    same = render_pretty(check([old], {}, log=log, against=old))
    assert "replay: no message is routed otherwise" in same
    assert "replay: 5 of 9 (55.6 %) messages are answered by a rule" in render_pretty(check([old], {}, log=log))


def test_messages_of_the_log_show_overlaps(tmp_path: Path) -> None:
    new, _, log = written(tmp_path)
    log.write_text('{"message": "order a1, which perks and hours"}\n')
    found = [p.message for p in check([new], {}, log=log).problems if p.code == "overlapping_rules"]
    assert sum("'order a1, which perks and hours'" in message for message in found) == 2  # hours with order and with gold
    assert not any("which perks" in p.message for p in check([new], {}).problems)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("opening hours", "not JSON"),
        ("[1]", '"message" is wanted'),
        ('{"text": "x"}', '"message" is wanted'),
        ('{"message": 7}', '"message" is wanted'),
        ('{"message": "x", "context": [1]}', '"context" must be an object'),
        (r'{"message": "\ud800"}', "surrogate"),
        ("[" * 100_000, "not JSON"),
        ('{"message": "' + "x" * (1 << 20) + '"}', "longer than"),
        ('{"message": "\udcff"}', "not JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_a_line_that_is_no_message_is_named(tmp_path: Path, line: str, says: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"message": "fine"}\n\n' + line + "\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(LogInvalid, match=r"log\.jsonl:3: ") as caught:
        list(read_log(log))
    assert says in str(caught.value)


def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old, log = written(tmp_path)
    with pytest.raises(WrongCall, match="--replay FILE"):
        check([new], {}, against=old)
    with pytest.raises(WrongCall, match="one workflow file"):
        check([new, old], {}, log=log)
    with pytest.raises(WrongCall, match="one workflow file"):
        check([tmp_path], {}, log=log)
    assert run([new], log=tmp_path / "none.jsonl", against=tmp_path / "none.json") == 2
    assert capsys.readouterr().err.count("no such file") == 2


def test_a_new_version_with_errors_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old, log = written(tmp_path)
    new.write_text('{"flows": [{"flow_id": "f"}]}')
    assert run([new], log=log, against=old) == 1
    assert "not replayed" in capsys.readouterr().err


def test_the_command_as_it_is_typed(tmp_path: Path) -> None:
    new, old, log = written(tmp_path)
    command = [sys.executable, "-m", "standalone.cli", "check", str(new)]
    done = subprocess.run([*command, "--replay", str(log), "--against", str(old)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "no rule -> flow hours" in done.stdout
    log.write_text("nonsense\n")
    done = subprocess.run([*command, "--replay", str(log)], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"loadsplit: {log}:1: not JSON")
    assert done.stderr.count("\n") == 1
