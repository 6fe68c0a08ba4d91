"""The tools of a workflow as a toolbox: declared HTTP calls, executed through `common.endpoints` with an idempotency key for each call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from common.endpoints.answer import CompiledAction, Outcome, perform
from common.endpoints.call import HttpCaller
from common.workflow.schema import Tool
from heavy.agent.ends import refuse_doubtful
from heavy.agent.names import DONE, wire_names
from heavy.agent.tool_schema import Arguments, object_schema
from heavy.agent.toolbox import Toolbox, ToolResult, failed
from heavy.llm.types import ToolCall, ToolSpec

# These variables hold the user's message; a tool that declares a parameter of such a name means its own.
MESSAGE_NAMES = frozenset({"message", "user_message", "raw_input", "input"})


class Variables(Protocol):
    """Gives the template variables of a call: the model's arguments with everything that the system fills in on top."""

    def __call__(self, action: CompiledAction, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of one call."""


class HttpTool:
    """One tool of a workflow, compiled. Its schema is kept for each set of hidden names that it declares. Raises ConfigInvalid for a
    schema with a remote reference."""

    def __init__(self, tool: Tool, action: CompiledAction) -> None:
        self.tool, self.action = tool, action
        self._declared = object_schema(tool.parameters)["properties"].keys()
        self._known: dict[frozenset[str], tuple[dict[str, Any], Arguments]] = {}
        self.schema(())

    def schema(self, hidden: Collection[str]) -> tuple[dict[str, Any], Arguments]:
        """The parameters that the model sees, and their check."""
        key = frozenset(n for n in hidden if n in self._declared)
        if key not in self._known:
            schema = object_schema(self.tool.parameters, key)
            self._known[key] = schema, Arguments(self.tool.name, schema)
        return self._known[key]

    def values(self, variables: Variables, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The template variables of a call. A parameter that is called like a variable for the user's message is the tool's own."""
        own = {n: arguments[n] for n in MESSAGE_NAMES & self._declared & arguments.keys()}
        return {**variables(self.action, arguments), **own}


def http_toolbox(
    tools: Sequence[HttpTool],
    caller: HttpCaller,
    variables: Variables,
    *,
    turn_id: str,
    deadline: float | None = None,
    hidden: Collection[str] = (),
    doubtful: Collection[str] = (),
) -> Toolbox:
    """A toolbox over declared calls. `hidden` are names that the request's context fills; `deadline` is Unix seconds; `doubtful` are calls
    that an earlier attempt of the turn may have made: a run raises InDoubt for one of those that must not be made twice."""
    names = wire_names((t.tool.name for t in tools), reserved={DONE})
    by_name = dict(zip(names, tools, strict=True))
    specs, checks = [], {}
    for name, tool in by_name.items():
        schema, checks[name] = tool.schema(hidden)
        specs.append(ToolSpec(name, tool.tool.description or tool.tool.name, schema))

    async def run(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        tool = by_name[call.name]
        refuse_doubtful(tool.action, call.id, doubtful)
        values = tool.values(variables, arguments)
        outcome = await perform(tool.action, values, caller, deadline=deadline, idempotency_key=f"{turn_id}:{call.id}")
        return tool_result(outcome)

    return Toolbox(specs, run, checks, approval=[name for name, tool in by_name.items() if tool.tool.approval])


def tool_result(outcome: Outcome) -> ToolResult:
    """An outcome as a model reads it. An empty result is a result: a model can make sense of it."""
    if outcome.empty:
        return ToolResult(True, outcome.text or {"ok": True, "result": outcome.result})
    if outcome.fault is not None:
        return failed(outcome.text or outcome.fault)
    return ToolResult(True, {"ok": True, "result": None} if outcome.result is None else outcome.result)
