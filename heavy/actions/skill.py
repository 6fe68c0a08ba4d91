"""Skills: an agent skill is a run of the agent loop under its own prompt; a function skill is one declared call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from common.workflow.schema import Skill
from heavy.actions.context import ActionContext, ActionResult, ActionStep, Inner
from heavy.actions.flow import declared_call
from heavy.agent import prompts
from heavy.agent.loop import run_agent
from heavy.agent.steps import Ended


async def agent_skill(ctx: ActionContext, skill: Skill) -> AsyncGenerator[ActionStep]:
    """Runs an agent skill. Without `done` (where it is required) the session stays in conversation with it. Tools that the workflow does
    not have are left out. Raises LLMError or DeadlineExceeded."""
    workflow = ctx.workflow
    tools = [ctx.compiled.tools[name] for name in dict.fromkeys(skill.tools) if name in ctx.compiled.tools]
    note = prompts.instead(ctx.escalated) if ctx.escalated else None
    run = run_agent(
        ctx.gateway,
        ctx.toolbox(tools),
        system=prompts.skill(workflow, skill, note),
        history=ctx.history,
        transcript=ctx.committed,
        model=skill.model or workflow.models.default,
        max_iterations=skill.max_iterations,
        require_done=skill.require_done_tool,
        streaming=ctx.streaming,
        deadline=ctx.deadline,
        purpose="skill",
        limits=workflow.limits,
        compaction_model=workflow.models.compaction,
        fallback=prompts.fallback(workflow, ctx.message),
    )
    async with aclosing(run) as steps:
        async for step in steps:
            if not isinstance(step, Ended):
                yield step
                continue
            yield ActionResult.of_run(
                step.end,
                action_type="skill",
                action_target=skill.id,
                session_status="in_conversation" if step.end.open else "ready",
                current_skill=skill.id if step.end.open else None,
            )


async def function_skill(ctx: ActionContext, skill: Skill, parameters: Mapping[str, Any]) -> AsyncGenerator[Inner]:
    """Runs a function skill: one call whose request is `{input}`."""
    async with aclosing(declared_call(ctx, "skill", skill.id, parameters)) as steps:
        async for step in steps:
            yield step
