"""The plain message: the model answers in the agent's name, under its SOP and constraints, without tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from heavy.actions.context import ActionContext, ActionResult, ActionStep
from heavy.agent import prompts
from heavy.agent.loop import run_agent
from heavy.agent.steps import Ended
from heavy.agent.toolbox import Toolbox


async def plain_message(ctx: ActionContext, note: str | None = None) -> AsyncGenerator[ActionStep]:
    """Answers in words. `note` is for the model only, never shown. Raises LLMError or DeadlineExceeded."""
    workflow = ctx.workflow
    run = run_agent(
        ctx.gateway,
        Toolbox(),
        system=prompts.agent(workflow, note),
        history=ctx.history,
        transcript=ctx.committed,
        model=workflow.models.default,
        max_iterations=1,
        streaming=ctx.streaming,
        deadline=ctx.deadline,
        purpose="message",
        limits=workflow.limits,
        compaction_model=workflow.models.compaction,
    )
    async with aclosing(run) as steps:
        async for step in steps:
            yield ActionResult.of_run(step.end) if isinstance(step, Ended) else step
