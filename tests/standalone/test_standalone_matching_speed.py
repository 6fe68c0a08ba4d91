"""The command that times matching: rules out of messages, figures of each, one line for a file that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.workflows import made_messages
from standalone.commands import matching_speed


def test_half_of_the_rules_have_a_gap_and_all_differ() -> None:
    rules = matching_speed.rules_from(made_messages(200), 100)
    assert len(set(rules)) == 100
    assert sum(".*" in rule for rule in rules) == 50


def test_every_message_is_matched_once() -> None:
    messages = made_messages(200)
    found = matching_speed.measure(matching_speed.rules_from(messages[:100], 20), messages[100:])
    assert (found["rules"], found["messages"]) == (20, 90)
    assert found["hits"] > 0
    assert 0 < found["p50_us"] <= found["p99_us"]


def test_the_command_prints_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "messages.csv"
    path.write_text("text,category\n" + "".join(f'"{text}",x\n' for text in made_messages(100)))
    monkeypatch.setattr("sys.argv", ["matching_speed", "--rules", "10", "--messages", str(path)])
    assert matching_speed.main() == 0
    assert json.loads(capsys.readouterr().out)["rules"] == 10


def test_a_file_that_holds_no_messages_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["matching_speed", "--messages", str(tmp_path / "nowhere.csv")])
    assert matching_speed.main() == 2
    assert "nowhere.csv" in capsys.readouterr().err
