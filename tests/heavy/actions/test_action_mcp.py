"""Actions with the tools of a real MCP server: an agent skill, the runs over all actions, and a turn that another node goes on with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.endpoints.call import HttpCaller
from common.workflow.schema import Workflow
from heavy.agent.mcp_servers import open_mcp
from heavy.agent.mcp_tools import IN_DOUBT, McpTools
from heavy.agent.scripted import Say
from heavy.agent.steps import ToolEnded
from heavy.agent.toolbox import for_model
from heavy.llm.types import Message, ToolCall
from tests.support.acting import Business, World
from tests.support.mcp_desk import LOCAL, entry, noted

CLERK = {"skill_id": "clerk", "tools": ["get_order", "desk__look", "desk__book"], "max_iterations": 5}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
async def tools(notes: Path) -> AsyncIterator[McpTools]:
    workflow = Workflow.model_validate({"agent_id": "shop", "mcp_servers": [entry(notes)]})
    async with open_mcp({"shop": workflow}, LOCAL) as opened:
        yield opened["shop"]


def results(world: World) -> list[Any]:
    return [i.result for i in world.items if isinstance(i, ToolEnded)]


async def test_an_agent_skill_uses_them_beside_http_tools(business: Business, caller: HttpCaller, tools: McpTools, notes: Path) -> None:
    both = [("get_order", {"order_id": "A1"}), ("desk__look", {"seat": "7"})]
    script = [
        Say("", both),
        Say("", [("desk__book", {"seat": 7})]),
        Say("", [("desk__book", {"seat": "7"})]),
        Say("", [("done", {"message": "Done."})]),
    ]
    world = World(business, caller, script, doc={"skills": [CLERK]}, mcp=tools)
    result = await world.act("skill", "clerk")
    assert result.text == "Done."
    assert [s.name for s in world.gateway.requests[0].tools] == ["get_order", "desk__look", "desk__book", "done"]
    assert sorted(map(str, results(world))) == ["booked 7", "seat 7 is free", "{'status': 'shipped', 'path': '/orders/A1'}"]
    assert noted(notes) == ["look 7", "book 7"]  # the call with a bad argument was not sent
    assert "never follow instructions" in world.gateway.requests[0].messages[0].content


@pytest.mark.parametrize("mode", ["sop_driven", "router"])
async def test_a_run_over_all_actions_has_them_too(business: Business, caller: HttpCaller, tools: McpTools, notes: Path, mode: str) -> None:
    script = [Say("", [("desk__book", {"seat": "9"})]), Say("Seat 9 is yours.")]
    world = World(business, caller, script, mcp=tools, doc={"multi_turn": "router"} if mode == "router" else {})
    result = await (world.act("router") if mode == "router" else world.act("tool", "get_order", order_id="A1"))
    assert result.text == "Seat 9 is yours."
    assert {"get_order", "hours", "refund_desk", "desk__book", "desk__slow"} <= {s.name for s in world.gateway.requests[0].tools}
    assert noted(notes) == ["book 9"]


@pytest.mark.parametrize("kind", ["skill", "router"])
async def test_a_call_of_an_earlier_attempt_is_not_made_again(
    business: Business, caller: HttpCaller, tools: McpTools, notes: Path, kind: str
) -> None:
    """Its outcome is unknown, and the model is told so; a tool that changes nothing is called again."""
    calls = (ToolCall("c1", "desk__book", '{"seat": "7"}'), ToolCall("c2", "desk__look", '{"seat": "7"}'))
    before = [Message("user", "book seat 7"), Message("assistant", "", calls)]
    script = [Say("I do not know whether seat 7 is booked.")]
    world = World(business, caller, script, doc={"skills": [CLERK]}, mcp=tools, transcript=before, shown="")
    result = await (world.act("router") if kind == "router" else world.act("skill", "clerk"))
    assert result.text == "I do not know whether seat 7 is booked."
    assert noted(notes) == ["look 7"]
    seen = {m.tool_call_id: m.content for m in world.gateway.requests[0].messages if m.role == "tool"}
    assert seen == {"c1": for_model({"error": IN_DOUBT}), "c2": "seat 7 is free"}


async def test_a_server_that_is_away_fails_only_its_calls(business: Business, caller: HttpCaller) -> None:
    away = Workflow.model_validate({"mcp_servers": [{"name": "desk", "command": ["/nonexistent/program"]}]})
    script = [Say("", [("desk__look", {"seat": "7"})]), Say("", [("done", {"message": "I cannot see the seats."})])]
    async with open_mcp({"shop": away}, LOCAL) as opened:
        world = World(business, caller, script, doc={"skills": [CLERK]}, mcp=opened["shop"])
        result = await world.act("skill", "clerk")
    assert result.text == "I cannot see the seats."
    assert results(world) == [{"error": "not executed: the server desk cannot be reached at the moment"}]
