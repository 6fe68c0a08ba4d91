"""An agent run for the message of an action context: its conversation, bounds and decisions, and the notes behind every system prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from heavy.actions.context import ActionContext, ActionResult
from heavy.agent import prompts
from heavy.agent.job import Job
from heavy.agent.loop import run_agent
from heavy.agent.said import SEPARATOR, shown_parts
from heavy.agent.steps import RunStep
from heavy.agent.toolbox import Toolbox
from heavy.llm.types import Message


def run(
    ctx: ActionContext,
    toolbox: Toolbox,
    *,
    system: str,
    purpose: str,
    transcript: Sequence[Message] = (),
    begins: int = 1,
    model: str | None = None,
    max_iterations: int = 1,
    done: Literal["required", "offered", "none"] = "none",
    ends_when_shown: bool = False,
) -> AsyncGenerator[RunStep]:
    """Runs an agent as heavy.agent.job says. `transcript` is the context's own unless given, `model` the workflow's. Where a bound ends a
    run that acts, the workflow's fallback is said; a run without tools leaves that to its caller."""
    workflow = ctx.workflow
    job = Job(
        system=system,
        transcript=transcript or ctx.committed,
        begins=begins,
        history=ctx.history,
        model=model or workflow.models.default,
        max_iterations=max_iterations,
        notes=partial(notes, ctx),
        done=done,
        ends_when_shown=ends_when_shown,
        fallback=prompts.fallback(workflow, ctx.message) if toolbox.specs or done != "none" else "",
        streaming=ctx.streaming,
        purpose=purpose,
        compaction_model=workflow.models.compaction,
        decisions=ctx.decisions,
        limits=workflow.limits,
        spent=ctx.spent,
        began=ctx.began,
        deadline=ctx.deadline,
    )
    return run_agent(ctx.gateway, toolbox, job)


async def notes(ctx: ActionContext) -> str:
    """What stands behind a system prompt: what is known of the user, what a human did before, what the knowledge tool found."""
    found = await ctx.knowledge.found() if ctx.knowledge else None
    return prompts.with_notes(prompts.profile(ctx.profile), prompts.handed_back(ctx.handed_back or ""), prompts.knowledge(found or ""))


def with_shown(result: ActionResult, transcript: Sequence[Message]) -> ActionResult:
    """The result, its last assistant message holding also what actions have shown: whoever reads the session finds it there."""
    parts = shown_parts(transcript)
    if not parts or result.reason == "awaiting_approval":
        return result
    messages = list(result.messages)
    if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        parts.append(messages.pop().content)
    return replace(result, messages=(*messages, Message("assistant", SEPARATOR.join(parts))))
