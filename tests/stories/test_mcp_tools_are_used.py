"""Tools of an MCP server through the HTTP API: a skill books with them, and a booking that a kill -9 interrupted is not made twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mcp_desk import HttpDesk, entry, noted, runs
from tests.support.running import Running, serve
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

CLERK = {"system": "CLERK-SKILL"}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}


SCRIPT: dict[str, Any] = {
    "first_token_ms": 5,
    "token_ms": 1,
    "rules": [
        {"when": {**CLERK, "tool_results": 0, "user": "slowly"}, **call("desk__slow", seconds=60)},
        {"when": {**CLERK, "tool_results": 0}, **call("desk__look", seat="7")},
        {"when": {**CLERK, "tool_results": 1, "user": "slowly"}, **call("done", message="I do not know whether it is booked.")},
        {"when": {**CLERK, "tool_results": 1}, **call("desk__book", seat="7")},
        {"when": {**CLERK, "tool_results": 2}, **call("done", message="Seat 7 is yours.")},
        {"when": {}, "text": "Plain words."},
    ],
}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Running]:
    """The LLM simulator with the clerk's script."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    port = free_port()
    with Running(["simulate", "llm", "--port", str(port), "--profile", str(script)], tmp_path, port=port, ready="/stats") as simulator:
        yield simulator


def workflow(folder: Path, server: dict[str, Any]) -> Path:
    clerk = {"skill_id": "clerk", "system_prompt": "CLERK-SKILL", "tools": ["desk"], "trigger_patterns": ["^book"]}
    path = folder / "workflow.json"
    path.write_text(json.dumps({"agent_id": "hall", "skills": [clerk], "mcp_servers": [server]}))
    return path


def env(model: Running) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": model.url + "/v1"}


@pytest.mark.parametrize("how", ["stdio", "http"])
def test_a_skill_books_a_seat(model: Running, tmp_path: Path, how: str) -> None:
    notes = tmp_path / "notes"
    desk = HttpDesk(notes)
    if how == "http":
        desk.start()
    config = workflow(tmp_path, entry(notes) if how == "stdio" else desk.entry())
    try:
        with serve(config, tmp_path, env(model)) as server:
            wait_until_sync(lambda: "MCP server desk is connected" in server.log(), "the MCP server is there", 30)
            events = list(server.client.stream("book seat 7", "mcp-1"))
            assert server.stop() == 0
    finally:
        desk.stop()
    assert [e.data["name"] for e in events if e.type == "tool_call"] == ["desk__look", "desk__book"]
    assert [e.data["result"] for e in events if e.type == "tool_result"] == ["seat 7 is free", "booked 7"]
    assert events[-1].data["message"] == "Seat 7 is yours."
    assert noted(notes) == ["look 7", "book 7"]


def test_an_interrupted_call_is_not_made_again(model: Running, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with serve(workflow(tmp_path, entry(notes)), tmp_path, env(model)) as server:
        stream = server.client.stream("book slowly", "mcp-2")
        turn_id = stream.take(1)[0].data["turn_id"]
        wait_until_sync(lambda: "slow begins" in noted(notes), "the tool runs", 30)
        server.kill()
        stream.close()
        wait_until_sync(lambda: not runs(notes), "the program ends with the process that started it")
        server.start()
        turn = f"/api/v1/turns/{turn_id}"
        wait_until_sync(lambda: server.client.call("GET", turn).json["state"] == "done", "the turn is finished", 40)
        assert server.client.call("GET", turn).json["result"]["message"] == "I do not know whether it is booked."
    assert noted(notes).count("slow begins") == 1
