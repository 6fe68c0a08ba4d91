"""`loadsplit check --junit`: an XML that CI systems read, whatever the texts hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from standalone.commands.check import check, run
from standalone.commands.junit import render_junit

FLOW = {"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "At 9."}
SKILL = {"skill_id": "desk", "system_prompt": "p"}
TESTS = [
    {"say": "your hours", "expect": {"target": "hours"}},
    {"name": "odd \u0000 <name> & \ufffe", "say": "hours \u0007", "expect": {"target": "desk", "tier": "heavy"}},
    {"say": "my money", "expect": {"action": "skill", "target": "desk"}},
]


def suites(*files: Path) -> tuple[ET.Element, list[ET.Element]]:
    root = ET.fromstring(render_junit(check(list(files), {})))
    return root, root.findall("testsuite")


def test_a_suite_a_file_a_case_a_test(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"flows": [FLOW], "skills": [SKILL], "tests": TESTS}))
    bad.write_text('{"flows": [{"flow_id": "f"}], "nope": 1}')
    root, (first, second) = suites(good, bad)
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("5", "2", "1")
    assert (first.get("name"), first.get("tests"), first.get("failures"), first.get("skipped")) == (str(good), "4", "1", "1")
    lint, passed, failed, skipped = first.findall("testcase")
    assert lint.get("name") == "lint"
    assert "no_fallback" in lint.findtext("system-out", "")
    assert passed.get("name") == "'your hours'"
    assert list(passed) == []
    assert failed.get("name") == "odd \ufffd <name> & \ufffd"
    assert "expected the tier heavy" in failed.findtext("failure", "")
    assert "needs a server" in skipped[0].get("message", "")
    (lint,) = second.findall("testcase")
    assert "error no_answer" in lint.findtext("failure", "")
    assert "error unknown_key" in lint.findtext("failure", "")


def test_the_command_writes_the_file_beside_its_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "w.json", tmp_path / "junit.xml"
    file.write_text(json.dumps({"flows": [FLOW], "tests": TESTS[:1]}))
    assert run([file], as_json=True, junit=out) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert ET.parse(out).getroot().tag == "testsuites"


def test_an_empty_directory_is_a_failed_suite(tmp_path: Path) -> None:
    root, (suite,) = suites(tmp_path)
    assert (root.get("failures"), suite.get("name")) == ("1", str(tmp_path))
