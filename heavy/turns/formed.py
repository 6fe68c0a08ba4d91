"""Tells the answer of a turn that was asked for as data. Nothing was told before: words that are data only at their end help nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.contracts.query import Usage
from heavy.actions.context import ActionContext, ActionResult
from heavy.agent.form import Form, in_form
from heavy.turns.telling import Telling


async def tell_formed(schema: Mapping[str, Any], told: Telling, ctx: ActionContext, result: ActionResult, usage: Usage) -> None:
    """Tells the result as JSON that fits the schema, or in words where it is none (a hand-off, a closed session). What an earlier attempt
    has told stands. What it costs is added to `usage`. Raises as heavy.agent.form.in_form."""
    if told.text:
        return
    if result.status != "success":
        told.say(result.text)
        return
    talk = [*ctx.committed, *result.messages]
    model = ctx.workflow.models.default
    told.say(await in_form(Form(schema), talk, result.text, gateway=ctx.gateway, model=model, deadline=ctx.deadline, usage=usage))
