"""`loadsplit check`: exit codes, both outputs, the rules that are too broad, and what a test of a file may expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from standalone.commands.check import check, run
from standalone.commands.report import render_json, render_pretty
from standalone.commands.results import Checked

DOC: dict[str, Any] = {
    "agent_id": "desk",
    "greeting": "Welcome!",
    "fallback_message": "Sorry.",
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9, {user_message}."},
        {
            "flow_id": "status",
            "trigger_patterns": ["where is order (?P<order_id>\\w+)"],
            "endpoint": {"url": "http://shop.example/{order_id}"},
            "response_template": "It is {result}.",
        },
        {"flow_id": "recommend", "type": "intent", "response_template": "Take the red one."},
        {"flow_id": "seen", "trigger_patterns": ["seen it"], "silent": True},
        {"flow_id": "who", "trigger_patterns": ["who am i"], "response_template": "You are {profile.name}."},
        {"flow_id": "stop", "trigger_patterns": ["stop it"], "interrupts": True, "response_template": "Stopped."},
    ],
    "tools": [
        {"name": "wipe", "trigger_patterns": ["wipe (?P<id>\\w+)"], "approval": True, "endpoint": {"url": "http://shop.example/{id}"}}
    ],
    "skills": [{"skill_id": "refunds", "system_prompt": "Handle refunds.", "trigger_patterns": ["refund desk"]}],
    "system_actions": [
        {"action_id": "human", "handler": "handoff", "trigger_patterns": ["a human"], "response_template": "A person takes over."},
        {"action_id": "bye", "handler": "close", "trigger_patterns": ["goodbye"]},
        {"action_id": "note", "handler": "update_profile", "silent": True, "trigger_patterns": ["note that"]},
    ],
}


def checked(tmp_path: Path, *tests: dict[str, Any], **changes: Any) -> Checked:
    file = tmp_path / "desk.json"
    file.write_text(json.dumps({**DOC, **changes, "tests": list(tests)}, indent=1), encoding="utf-8")
    return check([file], {})


HOLD: list[tuple[dict[str, Any], str]] = [
    ({"say": "Opening  HOURS?", "expect": {"action": "flow", "target": "hours", "tier": "lightweight"}}, "passed"),
    ({"say": "opening hours", "expect": {"contains": ["at 9", "opening hours"], "status": "success"}}, "passed"),
    ({"say": "where is order A1", "expect": {"target": "status", "group": {"order_id": "A1"}}}, "passed"),
    ({"say": "refund desk", "expect": {"action": "skill", "target": "refunds", "tier": "heavy"}}, "passed"),
    ({"say": "get me a human", "expect": {"action": "system", "target": "human", "tier": "heavy"}}, "passed"),
    ({"say": "tell me a story", "expect": {"action": "message", "tier": "heavy"}}, "passed"),
    ({"say": "hello", "expect": {"action": "greeting"}}, "passed"),
    ({"turns": ["refund desk", "opening hours"], "expect": {"tier": "heavy"}}, "passed"),
    ({"turns": ["refund desk", "stop it"], "expect": {"tier": "lightweight", "target": "stop"}}, "passed"),
    ({"turns": ["opening hours", "opening hours"], "expect": {"tier": "heavy"}}, "failed"),
    ({"say": "my money back", "expect": {"action": "skill", "target": "refunds"}}, "not_checked"),
    ({"say": "what to buy", "expect": {"action": "flow", "target": "recommend"}}, "not_checked"),
    ({"say": "where is order A1", "expect": {"contains": "shipped"}}, "not_checked"),
    ({"say": "opening hours", "expect": {"action": "skill", "target": "refunds"}}, "failed"),
    ({"say": "nothing of that", "expect": {"target": "hours"}}, "failed"),
    ({"say": "opening hours", "expect": {"tier": "heavy"}}, "failed"),
    ({"say": "opening hours", "expect": {"contains": "at 10"}}, "failed"),
    ({"say": "where is order A1", "expect": {"group": {"order_id": "B2"}}}, "failed"),
    ({"say": "where is order", "expect": {"group": {"order_id": "B2"}}}, "failed"),
    # what a system action does is known: its status, its text, the session after it
    ({"say": "get me a human", "expect": {"status": "transferred", "contains": "A person"}}, "passed"),
    ({"say": "get me a human", "expect": {"status": "success"}}, "failed"),
    ({"say": "goodbye", "expect": {"status": "closed"}}, "passed"),
    ({"say": "goodbye", "expect": {"contains": "later"}}, "not_checked"),
    ({"say": "note that", "expect": {"status": "silent", "contains": ""}}, "passed"),
    ({"turns": ["get me a human", "opening hours"], "expect": {"status": "transferred", "tier": "heavy"}}, "passed"),
    ({"turns": ["get me a human", "opening hours"], "expect": {"target": "hours"}}, "failed"),
    ({"turns": ["get me a human", "stop it"], "expect": {"target": "stop"}}, "failed"),
    ({"turns": ["note that", "opening hours"], "expect": {"target": "hours"}}, "passed"),
    # a closed session is opened again by the next message, in the heavy tier, with the greeting
    ({"turns": ["goodbye", "opening hours"], "expect": {"target": "hours", "tier": "heavy", "contains": "at 9"}}, "passed"),
    ({"turns": ["goodbye", "opening hours"], "expect": {"target": "hours", "tier": "lightweight"}}, "failed"),
    ({"turns": ["goodbye", "hello"], "expect": {"action": "greeting", "contains": "Welcome"}}, "passed"),
    ({"turns": ["goodbye", "hello", "opening hours"], "expect": {"target": "hours", "tier": "lightweight"}}, "passed"),
    ({"turns": ["goodbye", "get me a human", "opening hours"], "expect": {"status": "transferred"}}, "passed"),
    # what a person must approve waits for a yes; anything else leaves it waiting
    ({"say": "wipe A1", "expect": {"action": "tool", "target": "wipe", "tier": "heavy", "status": "queued"}}, "passed"),
    ({"say": "wipe A1", "expect": {"status": "success"}}, "failed"),
    ({"say": "wipe A1", "expect": {"contains": "Shall I"}}, "not_checked"),
    ({"turns": ["wipe A1", "yes"], "expect": {"target": "wipe", "group": {"id": "A1"}, "tier": "heavy"}}, "passed"),
    ({"turns": ["wipe A1", "No!"], "expect": {"target": "hours"}}, "failed"),
    ({"turns": ["wipe A1", "yes"], "expect": {"status": "success"}}, "not_checked"),
    ({"turns": ["wipe A1", "yes", "yes"], "expect": {"target": "wipe"}}, "not_checked"),  # the second yes is a message like any other
    ({"turns": ["wipe A1", "opening hours", "no"], "expect": {"target": "wipe"}}, "passed"),
    # a silent flow answers nothing; what needs the profile needs a server
    ({"say": "seen it", "expect": {"target": "seen", "status": "silent", "contains": "", "tier": "lightweight"}}, "passed"),
    ({"say": "seen it", "expect": {"status": "success"}}, "failed"),
    ({"say": "who am i", "expect": {"target": "who", "tier": "heavy"}}, "passed"),
    ({"say": "who am i", "expect": {"contains": "You are"}}, "not_checked"),
    # an interrupting rule answers, and the conversation goes on after it
    ({"turns": ["refund desk", "stop it", "opening hours"], "expect": {"action": "skill", "target": "refunds"}}, "not_checked"),
    ({"turns": ["refund desk", "stop it", "stop it"], "expect": {"tier": "heavy"}}, "failed"),
    # a salutation is answered with the greeting alone, but only at first and only where nothing else is said
    ({"say": "hello", "expect": {"action": "greeting", "contains": "Welcome", "status": "success"}}, "passed"),
    ({"say": "hello", "expect": {"action": "flow", "target": "hours"}}, "failed"),
    ({"say": "hello, opening hours?", "expect": {"action": "greeting"}}, "failed"),
    ({"turns": ["hello", "opening hours"], "expect": {"target": "hours"}}, "passed"),
]


@pytest.mark.parametrize(("test", "outcome"), HOLD)
def test_a_test_is_held_against_the_rules(tmp_path: Path, test: dict[str, Any], outcome: str) -> None:
    found = checked(tmp_path, test)
    (result,) = found.tests
    assert result.outcome == outcome, (result.reasons, result.unchecked)
    assert bool(result.reasons) == (outcome == "failed")
    assert found.exit_code == (outcome == "failed")


def test_a_failure_says_what_came_instead(tmp_path: Path) -> None:
    found = checked(tmp_path, {"name": "wants money", "say": "opening hours", "expect": {"action": "skill", "target": "refunds"}})
    line = next(line for line in render_pretty(found).splitlines() if "test_failed" in line)
    assert line.endswith("error test_failed wants money: expected skill refunds, but flow hours (rule 'opening hours') answers")
    assert line.startswith(f"{tmp_path}/desk.json:")


def test_rules_that_disagree_are_named(tmp_path: Path) -> None:
    flows = [*DOC["flows"], {"flow_id": "sunday", "trigger_patterns": ["sunday"], "response_template": "Closed."}]
    test = {"say": "opening hours on sunday", "expect": {"target": "sunday"}}
    (result,) = checked(tmp_path, test, flows=flows, ambiguous="escalate").tests
    why = "the rules of flow hours and flow sunday disagree"
    assert result.reasons == (f"expected sunday, but {why}, and the LLM never chooses a keyword flow",)


def test_rules_that_are_too_broad_are_told(tmp_path: Path) -> None:
    flows = [
        {"flow_id": "all", "trigger_patterns": ["fine", ".*"], "response_template": "x"},
        {"flow_id": "the", "trigger_patterns": ["t?he"], "response_template": "x"},
        {"flow_id": "exact", "trigger_patterns": ["hello there"], "match_type": "exact", "response_template": "x"},
    ]
    told = {(p.code, p.path) for p in checked(tmp_path, flows=flows).problems if p.code in ("matches_empty", "everyday_word")}
    assert told == {("matches_empty", "$.flows[0].trigger_patterns[1]"), ("everyday_word", "$.flows[1].trigger_patterns[0]")}


def test_re2_itself_checks_the_patterns(tmp_path: Path) -> None:
    found = checked(
        tmp_path, flows=[{"flow_id": "f", "trigger_patterns": ["a{1000}{1000}", "(unclosed", "x(?=y)"], "response_template": "x"}]
    )
    assert [(p.code, p.path) for p in found.problems if p.level == "error"] == [
        ("bad_pattern", f"$.flows[0].trigger_patterns[{i}]") for i in range(3)
    ]
    assert found.exit_code == 1


def test_unknown_names_are_errors_here(tmp_path: Path) -> None:
    found = checked(tmp_path, flows=[{"flow_id": "f", "trigger_patterns": ["x"], "response_template": "{orgId}"}])
    assert [p.code for p in found.problems if p.level == "error"] == ["unknown_placeholder"]


def test_a_directory_is_checked_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"agent_id": "one"}')
    (tmp_path / "b.yaml").write_text("agent_id: one\ngreting: x\n")
    (tmp_path / "c.yaml").write_text("agent_id: one\n")
    found = check([tmp_path], {})
    assert [(Path(p.file).name, p.code) for p in found.problems if p.level == "error"] == [
        ("b.yaml", "unknown_key"),
        ("c.yaml", "duplicate_agent"),
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert check([empty], {}).exit_code == 1


def test_coverage_counts_what_tests_reach(tmp_path: Path) -> None:
    flows = [
        {"flow_id": "hours", "trigger_patterns": ["opening hours", "hours", "营业时间"], "response_template": "At 9."},
        {"flow_id": "vip", "trigger_patterns": ["vip (?P<who>.+) hours"], "priority": 2, "response_template": "Always."},
        {"flow_id": "recommend", "type": "intent", "response_template": "The red one."},
    ]
    tests = [
        {"say": "your opening hours", "expect": {"target": "hours"}},
        {"turns": ["refund desk", "my money"], "expect": {"tier": "heavy"}},
        {"say": "what to buy", "expect": {"action": "flow", "target": "recommend"}},
    ]
    (coverage,) = checked(tmp_path, *tests, flows=flows, tools=[]).coverage
    assert (coverage.tests, coverage.rules, coverage.actions) == (3, 8, 7)
    assert [str(rule) for rule in coverage.untested_rules] == [
        "flow hours by '营业时间'",
        "flow vip by 'vip (?P<who>.+) hours'",
        "system human by 'a human'",
        "system bye by 'goodbye'",
        "system note by 'note that'",
    ]
    assert [str(action) for action in coverage.untested_actions] == ["flow vip", "system human", "system bye", "system note"]
    lines = (tmp_path / "desk.json").read_text().splitlines()
    for one in coverage.untested_actions:
        assert lines[one.line - 1][one.column - 1 :].startswith(f'"{one.action_target}"')


def test_coverage_is_told_in_both_outputs(tmp_path: Path) -> None:
    flows = [{"flow_id": f"f{i}", "trigger_patterns": [f"word{i}"], "response_template": "x"} for i in range(9)]
    found = checked(tmp_path, {"say": "word0", "expect": {"target": "f0"}}, flows=flows, tools=[], skills=[], system_actions=[])
    told = render_pretty(found)
    assert f"{tmp_path}/desk.json: coverage: 1 of 9 (11.1 %) rules and 1 of 9 (11.1 %) actions have a test" in told
    assert told.count("info untested_rule") == 6
    assert "info untested_rule … and 3 more (--json lists them)" in told
    doc = json.loads(render_json(found))
    assert doc["outcomes"] == {"passed": 1, "failed": 0, "not_checked": 0}
    assert (doc["coverage"][0]["rules_tested"], len(doc["coverage"][0]["untested_rules"])) == (1, 8)


def test_both_outputs_tell_the_same(tmp_path: Path) -> None:
    found = checked(tmp_path, HOLD[0][0], HOLD[13][0])
    doc = json.loads(render_json(found))
    assert doc["ok"] is False
    assert len(doc["problems"]) == len(found.problems)
    assert [t["outcome"] for t in doc["tests"]] == ["passed", "failed"]
    last = render_pretty(found).splitlines()[-1]
    assert last.startswith("1 file(s): 0 error(s)")
    assert last.endswith("2 test(s): 1 passed, 1 failed, 0 not checked without a server")


def test_the_command_prints_and_returns_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_TOKEN", "s3cr3t")
    (tmp_path / "w.json").write_text(
        '{"tools": [{"name": "t", "endpoint": {"url": "http://shop.example/", "headers": {"X-Key": "${SHOP_TOKEN}"}}}]}'
    )
    assert run([Path("w.json")]) == 0
    assert "s3cr3t" not in capsys.readouterr().out
    assert run([Path("w.json")], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (tmp_path / "w.json").write_text("{")
    assert run([Path("w.json")]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "w.json:1:1: error syntax this object is never closed — add '}'"
    assert run([Path("none.json"), Path("w.json")]) == 2
    assert capsys.readouterr().err == "none.json: no such file\n"
