"""An agent's life in the config centre, by the commands of a team and its CI: pushed, activated, tried on some sessions, taken back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import said
from tests.support.running import LOADSPLIT, Running
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

WORDS = "word " * 60


class Team:
    """A server, and a team that works on an agent, another one in each test. `run` gives exit code and output of a command."""

    agent = "shop"

    def __init__(self, server: Running, folder: Path) -> None:
        self.server, self.client, self._folder = server, server.client, folder
        self._env = {**os.environ, "LOADSPLIT_ADMIN_URL": server.url}

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """`loadsplit config …`."""
        command = [LOADSPLIT, "config", *arguments]
        done = subprocess.run(command, env=self._env, cwd=self._folder, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout, done.stderr

    def write(self, answer: str, pattern: str = "opening hours", expected: str = "hours") -> str:
        """The agent's file, with a test."""
        flow = {"flow_id": "hours", "name": "Hours", "trigger_patterns": [pattern], "response_template": answer}
        test = {"say": "your opening hours", "expect": {"action": "flow", "target": expected}}
        doc: dict[str, Any] = {"agent_id": self.agent, "fallback_message": "Sorry.", "flows": [flow], "tests": [test]}
        (self._folder / "shop.json").write_text(json.dumps(doc, indent=1))
        return "shop.json"

    def hours(self, session: str = "s1") -> str:
        """What the agent says."""
        answer = self.client.ask("your opening hours", session, agent_id=self.agent)
        return str(answer.json.get("message", ""))


@pytest.fixture(scope="module")
def running_team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder, llm_port, port = tmp_path_factory.mktemp("release"), free_port(), free_port()
    profile = folder / "profile.json"
    profile.write_text(json.dumps({"rules": [{"text": WORDS, "token_ms": 25}]}))
    arguments = ["simulate", "llm", "--port", str(llm_port), "--profile", str(profile)]
    env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": f"http://127.0.0.1:{llm_port}/v1"}
    with (
        Running(arguments, folder, port=llm_port, ready="/stats"),
        Running(["serve", "--config", "db:", "--port", str(port)], folder, port=port, env=env, ready="/livez") as server,
    ):
        yield Team(server, folder)


@pytest.fixture
def team(running_team: Team, request: pytest.FixtureRequest) -> Team:
    running_team.agent = request.node.name[5:25]
    return running_team


def test_from_the_first_version_to_a_canary_and_back(team: Team) -> None:
    assert team.hours() == ""
    code, out, _ = team.run("push", team.write("We open at 9."), "--activate", "--note", "first")
    assert code == 0
    assert f"{team.agent}: version 1 (" in out
    assert "version 1 is active; canary: none" in out
    wait_until_sync(lambda: team.hours() == "We open at 9.", "version 1 serves", 2)
    assert team.run("push", team.write("We open at 10."))[0] == 0
    code, out, _ = team.run("activate", team.agent, "2", "--canary", "30")
    assert (code, out) == (0, f"{team.agent}: version 1 is active; canary: 2 for 30 %\n")
    sessions = [f"c{i}" for i in range(30)]
    wait_until_sync(lambda: {team.hours(s) for s in sessions} == {"We open at 9.", "We open at 10."}, "both serve", 3)
    before = [team.hours(s) for s in sessions]
    assert [team.hours(s) for s in sessions] == before, "a session stays on its side"
    assert team.run("rollback", team.agent, "--note", "not yet")[1] == f"{team.agent}: version 1 is active; canary: none\n"
    wait_until_sync(lambda: {team.hours(s) for s in sessions} == {"We open at 9."}, "only version 1 serves", 2)
    code, out, _ = team.run("list", team.agent, "--json")
    told = json.loads(out)
    assert [v["state"] for v in told["versions"]] == ["stored", "active"]
    assert (told["changes"][0]["action"], told["changes"][0]["note"]) == ("rollback", "not yet")


def test_what_does_not_hold_ends_with_1_and_every_problem(team: Team) -> None:
    for extra in ((), ("--dry-run",)):
        code, out, _ = team.run("push", team.write("x", "(?=x)hours"), *extra)
        assert code == 1
        assert "shop.json:9:5: error bad_pattern" in out
    code, out, _ = team.run("push", team.write("x", "something else"))
    assert code == 1
    assert "error test_failed" in out
    code, out, err = team.run("activate", team.agent, "99")
    assert (code, out) == (2, "")
    assert "no such version" in err
    assert len(err.splitlines()) == 1
    code, _, err = team.run("list", "--url", f"http://127.0.0.1:{free_port()}")
    assert code == 2
    assert "nothing answers at" in err


def test_a_turn_ends_on_the_version_that_it_began_with(team: Team) -> None:
    assert team.run("push", team.write("We open at 11."), "--activate")[0] == 0
    wait_until_sync(lambda: team.hours() == "We open at 11.", "the version serves", 2)
    stream = iter(team.client.stream("tell me a story", "long-turn", agent_id=team.agent))
    start = next(stream)
    assert start.type == "start"
    code, out, _ = team.run("push", team.write("We open at 12.", "opening hours|story"), "--activate")
    assert code == 0, out
    wait_until_sync(lambda: team.hours("other") == "We open at 12.", "the next version serves", 2)
    rest = list(stream)
    assert rest[-1].type == "complete"
    assert rest[-1].data["config_hash"] == start.data["config_hash"]
    assert said(rest) == rest[-1].data["message"] == WORDS
    again = team.client.ask("tell me a story", "long-turn", agent_id=team.agent).json
    assert (again["message"], again["config_hash"] != start.data["config_hash"]) == ("We open at 12.", True)


def test_past_messages_are_compared(team: Team) -> None:
    assert team.run("push", team.write("We open at 9."), "--activate")[0] == 0
    wait_until_sync(lambda: team.hours("d1") == "We open at 9.", "the version serves", 2)
    code, out, _ = team.run("push", team.write("x", "opening hours|when do you close"), "--json")
    version = str(json.loads(out)["version"])
    assert team.run("diff", team.agent, version)[1].endswith(f"messages 0 are routed otherwise by version {version} than by 1\n")
    log = team.server.folder / "log.jsonl"
    log.write_text('{"message": "when do you close"}\n{"message": "your opening hours"}\n')
    code, out, _ = team.run("diff", team.agent, version, "--messages", "log.jsonl")
    assert code == 0
    assert f"of 2 given messages 1 are routed otherwise by version {version} than by 1" in out
    assert "no rule -> flow hours" in out
