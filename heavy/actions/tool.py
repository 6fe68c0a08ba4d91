"""A tool that acts once: a rule, a learned route or a timer chose it, or the intent match of an agent that acts once.

The call and its result stand in the transcript, so that it can wait for an approval and outlive its node. A finished answer is shown as it
stands; anything else the model puts into words, without tools.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import orjson

from common.contracts.query import Usage
from common.endpoints.answer import perform
from common.workflow.schema import Tool
from heavy.actions.context import ActionContext, ActionResult, Inner, NotAnswered
from heavy.actions.running import run, with_shown
from heavy.agent import prompts
from heavy.agent.ends import refuse_doubtful
from heavy.agent.http_tools import HttpTool, tool_result
from heavy.agent.steps import Ended, Step
from heavy.agent.toolbox import Toolbox, ToolResult
from heavy.llm.types import Message, ToolCall

CALL_ID = "intent_1"
_NUMBERS = {"integer": int, "number": float}


async def tool_action(ctx: ActionContext, tool: Tool, parameters: Mapping[str, Any], *, by_llm: bool) -> AsyncGenerator[Inner]:
    """Executes the tool once, then answers. NotAnswered where the arguments do not fit (they are not sent then).

    What an LLM has not chosen needs none to answer either: then the tool's result is the answer even without a template.
    """
    compiled = ctx.compiled.tools[tool.name]
    toolbox = _once(ctx, compiled, by_llm)
    transcript = list(ctx.committed)
    if transcript[-1].role == "user":
        known = parameters if by_llm else _from_message(ctx, compiled, parameters)
        call = ToolCall(CALL_ID, toolbox.specs[0].name, orjson.dumps(dict(known), default=str).decode())
        try:
            toolbox.parse(call)
        except ValueError as e:
            yield NotAnswered(str(e), missing=tool.name)
            return
        transcript.append(Message("assistant", "", (call,)))
        yield Step((transcript[-1],), Usage())
    steps = run(ctx, toolbox, system=prompts.tool_loop(ctx.workflow), purpose="tool", transcript=transcript, ends_when_shown=True)
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Step):
                transcript += step.messages
            yield _result(step, transcript, tool) if isinstance(step, Ended) else step


async def perform_tool(ctx: ActionContext, tool: HttpTool, call: ToolCall, arguments: Mapping[str, Any], *, shows: bool) -> ToolResult:
    """Makes one call of a tool; with `shows` its text is the answer, if it has one. Raises InDoubt."""
    refuse_doubtful(tool.action, call.id, ctx.doubtful)
    values = tool.values(lambda action, given: ctx.answer_variables(action, given), arguments)
    outcome = await perform(tool.action, values, ctx.caller, deadline=ctx.deadline, idempotency_key=f"{ctx.turn_id}:{call.id}")
    result = tool_result(outcome)
    return replace(result, shown=outcome.text or "") if shows else result


def _result(ended: Ended, transcript: list[Message], tool: Tool) -> ActionResult:
    """How it ended. One closing call after the one call is the plan, and no bound that was run into."""
    end = replace(ended.end, reason="done", done=True) if ended.end.reason == "max_iterations" else ended.end
    return with_shown(ActionResult.of_run(end, action_type="tool", action_target=tool.name), transcript)


def _once(ctx: ActionContext, tool: HttpTool, by_llm: bool) -> Toolbox:
    """The toolbox of this one tool."""
    shows = not by_llm or tool.tool.response_template is not None
    box = ctx.toolbox([tool])

    async def execute(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        return await perform_tool(ctx, tool, call, arguments, shows=shows)

    return box.with_runner(execute)


def _from_message(ctx: ActionContext, tool: HttpTool, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the rule's groups and the file's own mapping give, as the tool declares them: whoever approves sees them."""
    values = ctx.answer_variables(tool.action, parameters)
    declared = tool.schema(ctx.context.keys())[0]["properties"]
    return {name: _typed(values[name], schema) for name, schema in declared.items() if values.get(name) is not None}


def _typed(value: Any, schema: Any) -> Any:
    """A text as the number that the schema wants; anything else as it is."""
    wanted = _NUMBERS.get(schema.get("type", "")) if isinstance(schema, Mapping) and isinstance(schema.get("type"), str) else None
    if wanted is not None and isinstance(value, str):
        with suppress(ValueError):
            return wanted(value)
    return value
