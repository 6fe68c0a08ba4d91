"""From an intent to its answer: picks the action's file, and falls back to a plain message, then to the fallback text.

It knows neither how intents are found nor what the caller does with the steps.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from common.contracts.query import Usage
from common.errors import UpstreamError
from common.workflow.schema import Skill, SystemAction, Tool
from heavy.actions.context import ActionContext, ActionResult, ActionStep, Inner, NotAnswered
from heavy.actions.deciding import goes_on, router, sop_driven
from heavy.actions.echo import Echo
from heavy.actions.flow import declared_call
from heavy.actions.message import plain_message
from heavy.actions.skill import agent_skill, function_skill
from heavy.actions.system import system_action
from heavy.actions.tool import tool_action
from heavy.agent import prompts
from heavy.agent.ends import once_only
from heavy.agent.said import SEPARATOR, said_before
from heavy.agent.steps import Delta, Step
from heavy.llm.types import Message


class Chosen(Protocol):
    """What is to be done: an Intent, or anything of its form."""

    @property
    def kind(self) -> str:
        """skill, tool, flow, system, message or router."""

    @property
    def target(self) -> str | None:
        """The action's id."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What is known for it."""

    @property
    def matched_by(self) -> str:
        """What chose it: after an LLM's choice the model may go on, anything else acts once."""

    @property
    def resumes(self) -> str | None:
        """The skill whose conversation goes on afterwards."""


async def act(ctx: ActionContext, chosen: Chosen) -> AsyncGenerator[ActionStep]:
    """Runs the chosen action. Yields its steps and at last one ActionResult.

    An action that cannot answer, or that the workflow does not have, becomes a plain message that knows why; where that says nothing,
    the workflow's fallback message is the answer. Raises LLMError and DeadlineExceeded; the Steps until then are committed.
    """
    echo = Echo(ctx.shown, SEPARATOR.join(said_before(ctx.committed)))
    async with aclosing(_answer(ctx, chosen)) as steps:
        async for step in steps:
            if isinstance(step, Delta):
                if text := echo.delta(step.text):
                    yield Delta(text)
                continue
            if isinstance(step, Step | ActionResult) and (text := echo.settle()):
                yield Delta(text)
            yield _resumed(replace(step, text=echo.whole(step.text)), chosen) if isinstance(step, ActionResult) else step


async def _answer(ctx: ActionContext, chosen: Chosen) -> AsyncGenerator[ActionStep]:
    """The action's steps, or a plain message's in its place."""
    failure: NotAnswered | None = None
    try:
        async with aclosing(_inner(ctx, chosen)) as steps:
            async for step in steps:
                if isinstance(step, NotAnswered):
                    failure = step
                elif isinstance(step, ActionResult):
                    for last in _with_fallback(ctx, step):
                        yield last
                    return
                else:
                    yield step
    except UpstreamError as e:
        failure = NotAnswered(e.detail)
    note = prompts.missing(failure.missing, failure.reason) if failure and failure.missing else None
    if failure and not failure.missing:
        note = prompts.failure(failure.reason)
    async with aclosing(plain_message(ctx, note)) as steps:
        async for step in steps:
            if isinstance(step, ActionResult):
                for last in _with_fallback(ctx, step):
                    yield last
            else:
                yield step


def _inner(ctx: ActionContext, chosen: Chosen) -> AsyncGenerator[Inner]:
    """The action's own steps."""
    action = ctx.compiled.declared.get((chosen.kind, chosen.target or ""))
    by_llm = chosen.matched_by == "llm"
    if chosen.kind == "message":
        return plain_message(ctx, prompts.failure(ctx.escalated) if ctx.escalated else None)
    if chosen.kind == "router":
        return router(ctx, chosen.target)
    if action is not None and by_llm and goes_on(ctx, action):
        return sop_driven(ctx, chosen.kind, action.id, chosen.parameters)
    if isinstance(action, SystemAction):
        return _system_action(ctx, action, chosen.parameters)
    if isinstance(action, Skill):
        return function_skill(ctx, action, chosen.parameters) if action.execution_mode == "function" else agent_skill(ctx, action)
    if isinstance(action, Tool):
        return tool_action(ctx, action, chosen.parameters, by_llm=by_llm)
    if action is not None:
        return declared_call(ctx, "flow", action.id, chosen.parameters)
    return _unknown(chosen)


async def _system_action(ctx: ActionContext, action: SystemAction, parameters: Mapping[str, Any]) -> AsyncGenerator[Inner]:
    if once_only(ctx.compiled.actions["system", action.id]):
        yield Step((), Usage())  # a later attempt must know of its call
    result = await system_action(ctx, action, parameters)
    if isinstance(result, ActionResult) and result.text:
        yield Delta(result.text)
    yield result


async def _unknown(chosen: Chosen) -> AsyncGenerator[Inner]:
    yield NotAnswered(f"there is no {chosen.kind} {chosen.target}")


def _resumed(result: ActionResult, chosen: Chosen) -> ActionResult:
    """After an action that interrupted a conversation, that conversation goes on, unless the action has ended or begun one."""
    if chosen.resumes is None or result.session_status != "ready":
        return result
    return replace(result, session_status="in_conversation", current_skill=chosen.resumes)


def _with_fallback(ctx: ActionContext, result: ActionResult) -> list[ActionStep]:
    """The result, with the fallback text where nothing was said though something should have been."""
    if result.status == "silent" or result.reason == "awaiting_approval" or (result.text and result.reason != "silent"):
        return [result]
    text = prompts.fallback(ctx.workflow, ctx.message)
    shown = (SEPARATOR if result.text else "") + text
    messages = (*result.messages, Message("assistant", text))
    usage = Usage()
    usage.add(result.usage)
    return [Delta(shown), replace(result, text=result.text + shown, messages=messages, usage=usage)]
