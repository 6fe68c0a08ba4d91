"""MCP tools as a toolbox: which are offered, under which names, when servers are away, and calls whose outcome is not known."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from common.errors import ConfigInvalid
from heavy.agent.mcp_tools import IN_DOUBT, MAX_TOOLS, Listed, McpTool, McpTools, accept, checked_schema
from heavy.agent.toolbox import Toolbox, ToolResult
from heavy.llm.types import ToolCall, ToolSpec

SEAT = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}


class Desk:
    """A connection to a server that answers with what it was asked."""

    def __init__(self, name: str, listed: Sequence[Listed] | None, allowed: Collection[str] | None = None) -> None:
        self.name, self.allowed = name, allowed
        self.tools: Sequence[McpTool] | None = None if listed is None else accept(name, allowed, listed)
        self.waited: list[float] = []
        self.deadlines: list[float | None] = []

    async def ready(self, seconds: float) -> None:
        self.waited.append(seconds)

    async def call(self, tool: str, arguments: Mapping[str, Any], deadline: float | None) -> ToolResult:
        self.deadlines.append(deadline)
        return ToolResult(True, [tool, dict(arguments)])


def desk(name: str = "desk") -> Desk:
    return Desk(name, [Listed("look", "Looks", SEAT, repeatable=True), Listed("book", "", SEAT)])


def offered(toolbox: Toolbox) -> list[str]:
    return [s.name for s in toolbox.specs]


async def ask(toolbox: Toolbox, name: str, text: str = '{"seat": "A"}', call_id: str = "c1") -> ToolResult:
    call = ToolCall(call_id, name, text)
    return await toolbox.run(call, toolbox.parse(call))


async def test_a_skill_names_a_server_or_its_tools() -> None:
    tools = McpTools([desk(), desk("other")])
    assert offered(await tools.toolbox()) == ["desk__look", "desk__book", "other__look", "other__book"]
    assert offered(await tools.toolbox(["get_order", "other"])) == ["other__look", "other__book"]
    assert offered(await tools.toolbox(["desk__book", "other__look", "desk__gone"])) == ["desk__book", "other__look"]
    assert offered(await tools.toolbox(["des", "desk_"])) == []


async def test_nothing_is_waited_for_that_is_not_wanted() -> None:
    here, there = desk(), desk("other")
    await McpTools([here, there]).toolbox(["other"], deadline=time.time() + 2)
    assert here.waited == []
    assert 0 < there.waited[0] <= 2


async def test_a_call_runs_with_checked_arguments() -> None:
    server = desk()
    toolbox = await McpTools([server]).toolbox(deadline=(deadline := time.time() + 9))
    assert (await ask(toolbox, "desk__look")).value == ["look", {"seat": "A"}]
    assert server.deadlines == [deadline]
    with pytest.raises(ValueError, match="seat"):
        await ask(toolbox, "desk__look", "{}")
    assert [(s.description, s.parameters) for s in toolbox.specs] == [("Looks", SEAT), ("book", SEAT)]


async def test_an_open_call_is_made_again_only_where_that_changes_nothing() -> None:
    open_calls = [ToolCall("c1", "desk__look", "{}"), ToolCall("c2", "desk__book", "{}"), ToolCall("c3", "desk__gone", "{}")]
    toolbox = await McpTools([desk()]).toolbox(open_calls=[*open_calls, ToolCall("c4", "get_order", "{}")])
    assert (await ask(toolbox, "desk__look", call_id="c1")).ok
    assert (await ask(toolbox, "desk__book", call_id="c2")).value == {"error": IN_DOUBT}
    assert (await ask(toolbox, "desk__gone", call_id="c3")).value == {"error": IN_DOUBT}
    assert (await ask(toolbox, "desk__book", call_id="c5")).ok  # one of this attempt
    assert offered(toolbox) == ["desk__look", "desk__book"]
    with pytest.raises(ValueError, match="no tool"):
        await ask(toolbox, "get_order", call_id="c4")


async def test_a_server_that_never_answered_is_offered_as_far_as_the_file_names_it() -> None:
    tools = McpTools([Desk("desk", None, ["look"]), Desk("other", None)])
    toolbox = await tools.toolbox(["desk", "other__book", "other__bad name"])
    assert offered(toolbox) == ["desk__look", "other__book"]
    assert "cannot be reached" in toolbox.specs[0].description
    assert (await ask(toolbox, "other__book", '{"any": 1}')).value == ["book", {"any": 1}]
    assert offered(await tools.toolbox()) == ["desk__look"]


async def test_names_that_no_provider_takes_are_changed() -> None:
    long = "x" * 80
    server = Desk("desk", [Listed("a.b", "", SEAT), Listed("a/b", "", SEAT), Listed(long, "", SEAT)])
    toolbox = await McpTools([server]).toolbox()
    assert offered(toolbox)[:2] == ["desk__a_b", "desk__a_b_2"]
    assert all(len(name) <= 64 for name in offered(toolbox))
    assert (await ask(toolbox, "desk__a_b_2")).value[0] == "a/b"


async def test_two_toolboxes_beside_each_other() -> None:
    """Of two tools with one name the first counts, and runs in its own toolbox."""

    async def mine(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult(True, "mine")

    own = Toolbox([ToolSpec("desk__book", "own", SEAT)], mine, approval=["desk__book"])
    both = own.beside(await McpTools([desk()]).toolbox())
    assert [(s.name, s.description) for s in both.specs] == [("desk__book", "own"), ("desk__look", "Looks")]
    assert (await ask(both, "desk__book")).value == "mine"
    assert (await ask(both, "desk__look")).value == ["look", {"seat": "A"}]
    assert both.approval == {"desk__book"}
    assert own.beside(Toolbox()) is own


async def test_no_more_tools_than_a_provider_takes_in_one_request() -> None:
    """The file's own come first; with `done` there are 128."""
    servers = [Desk(name, [Listed(f"t{i}", "", SEAT) for i in range(100)]) for name in ("one", "two")]
    both = Toolbox([ToolSpec("own", "", SEAT)]).beside(await McpTools(servers).toolbox())
    assert len(both.specs) == 127
    assert offered(both)[:2] == ["own", "one__t0"]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "properties": {"a": {"enum": ["x" * 40_000]}}}, "bytes"),
        ({"type": "object", "items": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}, "levels deep"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/x", "$id": "http://evil.example/"}}}, r"points elsewhere with \$id"),
        ({"type": "object", "$schema": "http://evil.example/draft"}, r"\$schema"),
        ({"type": "object", "maximum": 2**80}, "no JSON"),
        ({"type": "array"}, "that of an object"),
        ({"type": "object", "properties": []}, "no object"),
        ([], "that of an object"),
    ],
)
def test_a_schema_that_lies_is_refused(schema: Any, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        checked_schema(schema)


def test_a_schema_may_name_its_draft() -> None:
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    assert checked_schema(draft) == {**draft, "properties": {}}


def test_more_tools_than_a_provider_takes(caplog: pytest.LogCaptureFixture) -> None:
    found = accept("desk", None, (Listed(f"t{i}", "", SEAT) for i in range(MAX_TOOLS + 3)))
    assert len(found) == MAX_TOOLS
    assert caplog.text.count("is left out") == 3
