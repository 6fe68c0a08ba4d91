"""Skills: an agent skill is a run of the agent loop under its own prompt; a function skill is one declared call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from common.workflow.schema import Skill
from heavy.actions.context import ActionContext, ActionResult, ActionStep, Inner
from heavy.actions.flow import declared_call
from heavy.actions.running import run
from heavy.agent import prompts
from heavy.agent.steps import Ended
from heavy.llm.account import of_skill
from heavy.llm.types import Message


async def agent_skill(ctx: ActionContext, skill: Skill, transcript: Sequence[Message] = (), begins: int = 1) -> AsyncGenerator[ActionStep]:
    """Runs an agent skill. Without `done` (where it is required) the session stays in conversation with it, unless each message of the
    agent stands alone (`single`). Tools that neither the workflow nor one of its MCP servers has are left out.

    A skill that takes a turn over from another run goes on with that one's `transcript`; its own messages begin at `begins`. Raises
    LLMError or DeadlineExceeded.
    """
    tools = [ctx.compiled.tools[name] for name in dict.fromkeys(skill.tools) if name in ctx.compiled.tools]
    toolbox = ctx.toolbox(tools).beside(await ctx.server_tools(skill.tools, transcript))
    note = prompts.instead(ctx.escalated) if ctx.escalated else None
    steps = run(
        replace(ctx, gateway=of_skill(ctx.gateway, skill.id)),
        toolbox,
        system=prompts.skill(ctx.workflow, skill, note),
        purpose="skill",
        transcript=transcript,
        begins=begins,
        model=skill.model,
        max_iterations=skill.max_iterations,
        done="required" if skill.require_done_tool else "none",
    )
    async with aclosing(steps):
        async for step in steps:
            if not isinstance(step, Ended):
                yield step
                continue
            stays = step.end.open and ctx.workflow.multi_turn != "single"
            yield ActionResult.of_run(
                step.end,
                action_type="skill",
                action_target=skill.id,
                session_status="in_conversation" if stays else "ready",
                current_skill=skill.id if stays else None,
            )


async def function_skill(ctx: ActionContext, skill: Skill, parameters: Mapping[str, Any]) -> AsyncGenerator[Inner]:
    """Runs a function skill: one call whose request is `{input}`."""
    async with aclosing(declared_call(ctx, "skill", skill.id, parameters)) as steps:
        async for step in steps:
            yield step
