"""The admin endpoints of the config centre, in the single process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heavy.turns.rows import Finish
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.turns import talk
from tests.support.waiting import wait_until

AGENT = "/admin/api/agents/shop"


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(None, tmp_path) as running:
        yield running


def workflow(answer: str, pattern: str = "opening hours", **more: Any) -> dict[str, Any]:
    flow = {"flow_id": "hours", "description": "opening hours", "trigger_patterns": [pattern], "response_template": answer}
    tests = [{"say": "what are your opening hours", "expect": {"action": "flow", "target": "hours"}}]
    return {"agent_id": "shop", "fallback_message": "Sorry.", "flows": [flow], "tests": tests, **more}


async def push(centre: InProcess, answer: str, **more: Any) -> int:
    status, stored = await centre.call("PUT", f"{AGENT}/config?note=why", workflow(answer, **more))
    assert status == 200, stored
    checked("ConfigStored", stored)
    return int(stored["version"])


async def test_a_version_from_push_to_rollback(centre: InProcess) -> None:
    status, problem = await centre.call("POST", "/api/v1/query", {"message": "opening hours", "session_id": "s1"})
    assert (status, problem["code"]) == (503, "dependency_unavailable")
    _, health = await centre.call("GET", "/api/v1/health")
    assert "no agent is in force" in health["checks"]["config"]["error"]
    assert await push(centre, "At nine.") == 1
    assert await push(centre, "At nine.") == 1
    assert await push(centre, "At ten.") == 2
    _, state = await centre.call("POST", f"{AGENT}/activate", {"version": 1})
    checked("AgentState", state)
    await wait_until(lambda: said(centre, "At nine."), "version 1 serves", 3)
    _, state = await centre.call("POST", f"{AGENT}/activate", {"version": 2, "canary_percent": 100, "note": "all of them"})
    assert (state["active"], state["previous"], state["canary"]) == (2, 1, None)
    await wait_until(lambda: said(centre, "At ten."), "version 2 serves", 3)
    _, state = await centre.call("POST", f"{AGENT}/rollback")
    assert state["active"] == 1
    await wait_until(lambda: said(centre, "At nine."), "version 1 serves again", 3)
    status, problem = await centre.call("POST", f"{AGENT}/rollback", {})
    assert (status, problem["code"]) == (409, "invalid_request")
    _, listed = await centre.call("GET", f"{AGENT}/versions")
    assert [(v["version"], v["state"], v["note"]) for v in listed["versions"]] == [(2, "stored", "why"), (1, "active", "why")]
    _, one = await centre.call("GET", f"{AGENT}/versions/2")
    checked("ConfigVersion", one)
    assert json.loads(one["text"]) == workflow("At ten.")
    assert (one["tests"]["run"], one["tests"]["passed"]) == (True, 1)
    _, agent = await centre.call("GET", AGENT)
    assert [c["action"] for c in agent["changes"]] == ["rollback", "activate", "activate"]
    _, agents = await centre.call("GET", "/admin/api/agents")
    assert (agents["source"], agents["agents"][0]["config_hash"]) == ("db", listed["versions"][1]["hash"])


async def said(centre: InProcess, answer: str) -> bool:
    """Whether the shop answers so."""
    status, reply = await centre.call("POST", "/api/v1/query", {"message": "opening hours", "session_id": "s1"})
    return status == 200 and reply["message"].endswith(answer)


async def test_what_does_not_hold_is_not_stored(centre: InProcess) -> None:
    bad = json.dumps(workflow("x", "(?=x)"), indent=1)
    status, problem = await centre.call("PUT", f"{AGENT}/config", bad.encode(), headers={"content-type": "application/json"})
    assert (status, problem["code"]) == (422, "config_invalid")
    found = next(p for p in problem["problems"] if p["level"] == "error")
    assert (found["code"], found["line"] > 1, found["column"] > 1) == ("bad_pattern", True, True)
    status, problem = await centre.call("PUT", f"{AGENT}/config", workflow("x", "something else"))
    assert (status, problem["tests"]["failed"]) == (422, 1)
    assert "test" in problem["detail"]
    status, problem = await centre.call("PUT", "/admin/api/agents/desk/config", workflow("x"))
    assert (status, problem["problems"][0]["code"]) == (422, "agent_id_differs")
    status, examined = await centre.call("PUT", f"{AGENT}/config?dry_run=true", workflow("x", "something else"))
    assert (status, examined["valid"], examined["tests"]["failed"]) == (200, False, 1)
    assert (await centre.call("GET", "/admin/api/agents"))[1]["agents"] == []


async def test_yaml_and_other_types(centre: InProcess) -> None:
    text = b"agent_id: shop\ngreeting: Hello.\nfallback_message: Sorry.\n"
    status, stored = await centre.call("PUT", f"{AGENT}/config", text, headers={"content-type": "application/yaml"})
    assert status == 200, stored
    assert (await centre.call("GET", f"{AGENT}/versions/1"))[1]["form"] == "yaml"
    status, _ = await centre.call("PUT", f"{AGENT}/config", text, headers={"content-type": "text/csv"})
    assert status == 415
    status, _ = await centre.call("PUT", f"{AGENT}/config", b"\xff", headers={"content-type": "application/yaml"})
    assert status == 400


async def test_diff_match_and_comparison(centre: InProcess) -> None:
    await push(centre, "At nine.")
    await centre.call("POST", f"{AGENT}/activate", {"version": 1})
    await wait_until(lambda: said(centre, "At nine."), "version 1 serves", 3)
    await push(centre, "At ten.", pattern="opening hours|when do you open")
    given = ["opening hours", {"message": "when do you open", "session_id": "s5"}]
    status, told = await centre.call("POST", f"{AGENT}/diff", {"version": 2, "messages": given})
    assert (status, told["source"], told["messages"], told["against"]) == (200, "given", 2, 1)
    assert told["changes"]["newly_answered"] == 1
    assert told["moved"][0]["examples"][0]["message"] == "when do you open"
    _, told = await centre.call("POST", f"{AGENT}/diff", {"version": 2})
    assert (told["source"], sum(told["changes"].values())) == ("turns", 0)
    for version, by in ((None, "none"), (1, "none"), (2, "rule")):
        _, routed = await centre.call("POST", f"{AGENT}/match", {"message": "when do you open", "version": version})
        assert routed["matched_by"] == by
    await centre.call("POST", f"{AGENT}/activate", {"version": 2, "canary_percent": 50})
    _, compared = await centre.call("GET", f"{AGENT}/comparison")
    checked("VersionFigures", compared["active"])
    checked("VersionFigures", compared["canary"])
    assert (compared["canary"]["version"], compared["canary"]["percent"], compared["complaint"]) == (2, 50.0, None)


async def test_a_harmful_canary_is_taken_back_and_the_reason_told(centre: InProcess) -> None:
    for answer in ("At nine.", "At ten."):
        await push(centre, answer)
    await centre.call("POST", f"{AGENT}/activate", {"version": 1})
    _, state = await centre.call("POST", f"{AGENT}/activate", {"version": 2, "canary_percent": 20})
    for i in range(12):
        failed = Finish("failed", 1, error={"code": "llm_error"})
        await talk(centre.heavy.stores, f"t_{i}", failed, session_id=f"s{i}", config_hash=state["canary_hash"])

    async def taken_back() -> bool:
        return (await centre.call("GET", AGENT))[1]["canary"] is None

    await wait_until(taken_back, "the canary is taken back", 15)
    _, agent = await centre.call("GET", AGENT)
    checked("ConfigChange", agent["changes"][0])
    assert (agent["active"], agent["changes"][0]["action"], agent["changes"][0]["version"]) == (1, "auto_rollback", 2)
    assert "12 of its 12 turns went wrong" in agent["changes"][0]["note"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "activate", {"version": 9}, 404),
        ("POST", "activate", {"version": "1"}, 400),
        ("POST", "activate", {"version": True}, 400),
        ("POST", "activate", {"version": 1, "canary_percent": 0}, 400),
        ("POST", "activate", {"version": 1, "canary_percent": 101}, 400),
        ("POST", "activate", {"version": 1, "percent": 5}, 400),
        ("POST", "activate", {"version": 1, "note": 5}, 400),
        ("POST", "activate", {"version": 1, "canary_percent": 5}, 409),
        ("POST", "diff", {"version": 1}, 409),
        ("POST", "diff", {"version": 1, "messages": [5]}, 400),
        ("POST", "diff", {"version": 1, "messages": "x"}, 400),
        ("POST", "match", {"message": "x", "version": 0}, 400),
        ("POST", "match", {"message": "x", "version": 7}, 404),
        ("GET", "versions/x", None, 400),
        ("GET", "versions/7", None, 404),
        ("GET", "versions?limit=x", None, 400),
    ],
)
async def test_wrong_requests_are_told_so(centre: InProcess, method: str, path: str, body: Any, status: int) -> None:
    await push(centre, "At nine.")
    answered, problem = await centre.call(method, f"{AGENT}/{path}", body)
    assert answered == status, problem
    checked("Problem", problem)


async def test_an_agent_that_is_not_known(centre: InProcess) -> None:
    for path in ("", "/versions", "/comparison"):
        assert (await centre.call("GET", f"/admin/api/agents/nobody{path}"))[0] == 404
    assert (await centre.call("POST", "/admin/api/agents/nobody/rollback", {}))[0] == 404


async def test_where_files_serve_versions_are_kept_and_none_comes_into_force(shop: InProcess) -> None:
    _, agents = await shop.call("GET", "/admin/api/agents")
    assert (agents["source"], [a["agent_id"] for a in agents["agents"]]) == ("files", ["shop"])
    status, pushed = await shop.call("PUT", f"{AGENT}/config", workflow("x"))
    assert (status, pushed["version"]) == (200, 1)
    assert (await shop.call("PUT", f"{AGENT}/config", {"agent_id": "shop", "flows": [{}]}))[0] == 422
    assert [v["state"] for v in (await shop.call("GET", f"{AGENT}/versions"))[1]["versions"]] == ["stored"]
    for path, body in (("activate", {"version": 1}), ("rollback", {})):
        status, problem = await shop.call("POST", f"{AGENT}/{path}", body)
        assert status == 409
        assert "LOADSPLIT_CONFIG=db:" in problem["detail"]
    status, examined = await shop.call("PUT", f"{AGENT}/config?dry_run=true", workflow("x"))
    assert (status, examined["valid"]) == (200, True)
