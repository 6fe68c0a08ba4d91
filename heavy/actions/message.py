"""The plain message: the model answers in the agent's name, under its SOP and constraints, without tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from heavy.actions.context import ActionContext, ActionResult, ActionStep
from heavy.actions.running import run
from heavy.agent import prompts
from heavy.agent.steps import Ended
from heavy.agent.toolbox import Toolbox


async def plain_message(ctx: ActionContext, note: str | None = None) -> AsyncGenerator[ActionStep]:
    """Answers in words. `note` is for the model only, never shown. Raises LLMError or DeadlineExceeded."""
    async with aclosing(run(ctx, Toolbox(), system=prompts.agent(ctx.workflow, note), purpose="message")) as steps:
        async for step in steps:
            yield ActionResult.of_run(step.end) if isinstance(step, Ended) else step
