"""Act, look, decide again: runs in which the model holds every action of the workflow, under its SOP and constraints.

`sop_driven` begins with the action that the intent match chose; `router` begins with the message itself. In both an agent skill that is
called takes the turn over. The transcript alone says how far a run has come.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from common.contracts.query import Usage
from common.workflow.schema import Flow, Skill, SystemAction, Tool
from heavy.actions.context import ActionContext, ActionResult, ActionStep, Inner, NotAnswered
from heavy.actions.offer import Offer
from heavy.actions.running import run, with_shown
from heavy.actions.skill import agent_skill
from heavy.agent import prompts
from heavy.agent.calls import unanswered
from heavy.agent.steps import Delta, Ended, Routed, RunEnd, RunStep, Step, ToolStarted
from heavy.agent.toolbox import is_failure
from heavy.llm.types import Message


def goes_on(ctx: ActionContext, action: Tool | Skill | Flow | SystemAction) -> bool:
    """Whether the model looks at the result of an action that the intent match chose, and decides again. An answer in finished words
    leaves nothing to decide where the file has no SOP, and neither does what ends the turn anyway."""
    workflow = ctx.workflow
    if workflow.iteration_strategy != "sop_driven":
        return False
    if isinstance(action, Tool):
        return True
    if isinstance(action, SystemAction):
        return bool(workflow.sop) and action.handler == "update_profile" and not action.silent
    if isinstance(action, Flow):
        return bool(workflow.sop) and not action.silent
    return bool(workflow.sop) and action.execution_mode == "function"


async def sop_driven(ctx: ActionContext, kind: str, target: str, parameters: Mapping[str, Any]) -> AsyncGenerator[Inner]:
    """Runs the action, shows the model its result, and lets it go on with any action. An action that lacks something is not called: the
    model is told, and may ask for it or find it out. Raises LLMError or DeadlineExceeded."""
    offer = Offer(ctx, await ctx.server_tools())
    transcript = list(ctx.committed)
    call = offer.call(kind, target, parameters)
    if call is None:
        yield NotAnswered(f"there is no {kind} {target}")
        return
    system = prompts.sop_loop(ctx.workflow)
    if lacks := offer.lacks(call):
        system = prompts.with_notes(system, prompts.missing(target, lacks))
    elif transcript[-1].role == "user":
        transcript.append(Message("assistant", "", (call,)))
        yield Step((transcript[-1],), Usage())
    nothing: dict[str, Any] = {"action_type": kind, "action_target": target}
    async with aclosing(_act(ctx, offer, transcript, system, "tool", nothing)) as steps:
        async for step in steps:
            yield step


async def router(ctx: ActionContext, in_progress: str | None = None) -> AsyncGenerator[ActionStep]:
    """Lets the model choose and act by itself, or answer in words; says with Routed what answers before anything else is shown.
    `in_progress` is the skill that the last message left open. Raises LLMError or DeadlineExceeded."""
    offer, transcript = Offer(ctx, await ctx.server_tools()), list(ctx.committed)
    skill = ctx.compiled.declared.get(("skill", in_progress or ""))
    system = prompts.router(ctx.workflow, skill if isinstance(skill, Skill) else None)
    system = prompts.with_notes(system, prompts.instead(ctx.escalated) if ctx.escalated else "")
    told = False
    async with aclosing(_act(ctx, offer, transcript, system, "router", {})) as steps:
        async for step in steps:
            if not told and isinstance(step, Delta | ToolStarted | ActionResult):
                told = True
                yield _routed(offer, transcript)
            yield step


async def _act(
    ctx: ActionContext, offer: Offer, transcript: list[Message], system: str, purpose: str, nothing: Mapping[str, Any]
) -> AsyncGenerator[ActionStep]:
    """The run over all actions, and the skill that takes over from it. `nothing` are the result's fields when no action answered."""
    taken = offer.taken_over(transcript)
    if taken is None or (unanswered(transcript) and not any(m.role == "assistant" for m in transcript[taken[1] :])):
        async with aclosing(_run(ctx, offer, transcript, system, purpose)) as steps:
            async for step in steps:
                if not isinstance(step, Ended):
                    yield step
                    continue
                taken = offer.taken_over(transcript) if step.end.reason == "ended" else None
                if taken is None:
                    yield _result(offer, transcript, step.end, nothing, once=ctx.workflow.iteration_strategy == "single_shot")
                    return
                if step.end.messages:
                    yield Step(step.end.messages, step.end.usage)
                    transcript += step.end.messages
    if taken is None:
        return
    skill, begins = taken
    effects = {k: v for k, v in offer.effects(transcript[:begins]).items() if k == "profile"}
    async with aclosing(agent_skill(ctx, skill, tuple(transcript), begins)) as going_on:
        async for item in going_on:
            if isinstance(item, Step):
                transcript += item.messages
            yield with_shown(replace(item, **effects), transcript) if isinstance(item, ActionResult) else item


async def _run(ctx: ActionContext, offer: Offer, transcript: list[Message], system: str, purpose: str) -> AsyncGenerator[RunStep]:
    """The run itself; `transcript` grows with what it commits."""
    workflow = ctx.workflow
    steps = run(
        ctx,
        offer.toolbox,
        system=system,
        purpose=purpose,
        transcript=tuple(transcript),
        max_iterations=workflow.max_iterations if workflow.iteration_strategy == "sop_driven" else 1,
        done="offered" if offer.toolbox.specs else "none",
        ends_when_shown=not workflow.sop or workflow.iteration_strategy == "single_shot",
    )
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Step):
                transcript += step.messages
            yield step


def _result(offer: Offer, transcript: Sequence[Message], end: RunEnd, nothing: Mapping[str, Any], *, once: bool) -> ActionResult:
    """The run's end with what its calls mean for the turn. A turn in which something was said is not silent."""
    if end.reason == "max_iterations" and once:
        end = replace(end, reason="done", done=True)  # the one closing call after the one round is the plan
    fields = {**nothing, **offer.effects(transcript)}
    if end.reason == "awaiting_approval":
        fields = dict(nothing)
    if fields.get("status") == "silent" and end.text:
        del fields["status"]
    return with_shown(ActionResult.of_run(end, **fields), transcript)


def _routed(offer: Offer, transcript: Sequence[Message]) -> Routed:
    """What answers, at the first thing that is shown: on a later attempt that is what the first one began with."""
    for m in transcript:
        if m.role == "assistant" and m.content.strip():
            break
        for call in m.tool_calls:
            result = next((r for r in transcript if r.tool_call_id == call.id), None)
            chosen = offer.candidate(call)
            if chosen is not None and (result is None or not is_failure(result)):
                kind: Any = chosen.kind
                return Routed(kind, chosen.target)
    return Routed("message")
