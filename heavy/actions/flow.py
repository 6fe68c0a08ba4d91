"""Flows (and function skills, which run alike): one declared call, its template, no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

from common.contracts.query import Usage
from common.endpoints.answer import CompiledAction, perform
from common.endpoints.call import EndpointFailed
from heavy.actions.context import ActionContext, ActionResult, Inner, NotAnswered
from heavy.agent.ends import once_only, refuse_doubtful
from heavy.agent.steps import Delta, Step


async def declared_call(
    ctx: ActionContext, kind: Literal["flow", "skill"], target: str, parameters: Mapping[str, Any], *, call_id: str | None = None
) -> AsyncGenerator[Inner]:
    """Calls the endpoint, if any, and answers with the template, the result, or the `on_error`/`on_empty` text; else NotAnswered.

    A silent flow answers nothing, with the status `silent`, unless its call failed. The call's idempotency key comes from `call_id`,
    where the action may run more than once in a turn. Before a call that must not be made twice a step is committed, so that a later
    attempt knows of it. Raises InDoubt.
    """
    action = ctx.compiled.actions[kind, target]
    variables = ctx.answer_variables(action, parameters)
    if lacks := missing(action, variables):
        yield NotAnswered(lacks, missing=target)
        return
    refuse_doubtful(action, call_id, ctx.doubtful)
    if once_only(action) and call_id is None:
        yield Step((), Usage())
    outcome = await perform(
        action,
        variables,
        ctx.caller,
        deadline=ctx.deadline,
        # the same for every attempt of the turn: a call that a dead node has made is not made twice
        idempotency_key=f"{ctx.turn_id}:{call_id or f'{kind}:{target}'}",
    )
    if action.silent and outcome.text == "":
        yield ActionResult("", action_type=kind, action_target=target, status="silent")
        return
    if not outcome.text:
        yield NotAnswered(outcome.failure or f"{action.name}: it had no answer")
        return
    yield Delta(outcome.text)
    yield ActionResult.said(outcome.text, action_type=kind, action_target=target)


def missing(action: CompiledAction, variables: Mapping[str, Any]) -> str | None:
    """What the call's URL lacks, in words: then the user is asked, as an action chosen by a model may come without it."""
    if action.endpoint is None:
        return None
    try:
        action.endpoint.prepare(variables)
    except EndpointFailed as e:
        return e.detail if e.kind == "missing_variable" else None
    return None
