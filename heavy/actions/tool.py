"""A tool that the intent match chose: its call opens an agent run, so that the model sees the result and puts it into words.

With a `response_template` the template answers and no model is asked again. The call and its result stand in the transcript either way.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from common.contracts.query import Usage
from common.endpoints.answer import perform
from common.workflow.schema import Tool
from heavy.actions.context import ActionContext, ActionResult, ActionStep, Inner, NotAnswered
from heavy.agent import prompts
from heavy.agent.http_tools import tool_result
from heavy.agent.loop import run_agent
from heavy.agent.steps import Delta, Ended, Step, ToolEnded, ToolStarted
from heavy.agent.toolbox import Toolbox, for_model, for_user
from heavy.llm.types import Message, ToolCall

CALL_ID = "intent_1"


async def tool_action(ctx: ActionContext, tool: Tool, parameters: Mapping[str, Any]) -> AsyncGenerator[Inner]:
    """Executes the tool, then answers; under `sop_driven` the model may go on with the workflow's other tools.

    NotAnswered where the arguments do not fit (they are not sent then) or the tool waits for an approval.
    """
    if tool.approval:
        yield NotAnswered(f"tool {tool.name}: it needs the approval of a person")
        return
    others = [t for name, t in ctx.compiled.tools.items() if name != tool.name]
    more = others if ctx.workflow.iteration_strategy == "sop_driven" else []
    toolbox = ctx.toolbox([ctx.compiled.tools[tool.name], *more])
    transcript = list(ctx.committed)
    if transcript[-1].role == "user":
        call = ToolCall(CALL_ID, toolbox.specs[0].name, orjson.dumps(dict(parameters), default=str).decode())
        try:
            toolbox.parse(call)
        except ValueError as e:
            yield NotAnswered(str(e), missing=tool.name)
            return
        transcript.append(Message("assistant", "", (call,)))
        yield Step((transcript[-1],), Usage())
    last = transcript[-1]
    first_call = len(transcript) == 2 and last.role == "assistant" and bool(last.tool_calls)
    answer = _by_template if tool.response_template and first_call else _by_model
    async with aclosing(answer(ctx, tool, toolbox, transcript)) as steps:
        async for step in steps:
            yield step


async def _by_template(ctx: ActionContext, tool: Tool, toolbox: Toolbox, transcript: Sequence[Message]) -> AsyncGenerator[ActionStep]:
    call = transcript[-1].tool_calls[0]
    arguments = toolbox.parse(call)
    yield ToolStarted(call, arguments)
    compiled = ctx.compiled.tools[tool.name]
    start = time.perf_counter()
    outcome = await perform(
        compiled.action,
        compiled.values(ctx.variables, arguments),
        ctx.caller,
        deadline=ctx.deadline,
        idempotency_key=f"{ctx.turn_id}:{call.id}",
    )
    result = tool_result(outcome)
    message = Message("tool", for_model(result.value), tool_call_id=call.id)
    yield Step((message,), Usage())
    yield ToolEnded(call, result.ok, for_user(result.value), round((time.perf_counter() - start) * 1000, 1))
    if outcome.text:
        yield Delta(outcome.text)
        yield ActionResult.said(outcome.text, action_type="tool", action_target=tool.name)
        return
    async with aclosing(_by_model(ctx, tool, toolbox, [*transcript, message])) as steps:
        async for step in steps:
            yield step


async def _by_model(ctx: ActionContext, tool: Tool, toolbox: Toolbox, transcript: Sequence[Message]) -> AsyncGenerator[ActionStep]:
    workflow = ctx.workflow
    run = run_agent(
        ctx.gateway,
        toolbox,
        system=prompts.tool_loop(workflow),
        history=ctx.history,
        transcript=transcript,
        model=workflow.models.default,
        max_iterations=workflow.max_iterations if workflow.iteration_strategy == "sop_driven" else 1,
        streaming=ctx.streaming,
        deadline=ctx.deadline,
        purpose="tool",
        limits=workflow.limits,
        compaction_model=workflow.models.compaction,
        fallback=prompts.fallback(workflow, ctx.message),
    )
    async with aclosing(run) as steps:
        async for step in steps:
            if isinstance(step, Ended):
                yield ActionResult.of_run(step.end, action_type="tool", action_target=tool.name)
            else:
                yield step
