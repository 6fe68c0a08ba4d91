"""System actions: hand over to a human, close the session, note something about the user. No model; a call only where one is declared."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from common.endpoints.answer import CompiledAction, Outcome, perform
from common.workflow.schema import SystemAction
from heavy.actions.context import ActionContext, ActionResult, NotAnswered
from heavy.agent.ends import refuse_doubtful
from heavy.agent.prompts import language_of
from heavy.agent.tool_schema import object_schema

MAX_FIELDS = 64
MAX_NAME = 128
MAX_VALUE_BYTES = 2048  # as JSON; a longer text is cut
BECOMES: Mapping[str, Any] = {
    "handoff": {"status": "transferred", "session_status": "transferred"},
    "close": {"status": "closed", "session_status": "closed"},
    "update_profile": {},
}
_TEXT = {
    ("handoff", "en"): "I am handing you over to a colleague. Please wait a moment.",
    ("handoff", "zh"): "正在为您转接人工客服，请稍候。",
    ("close", "en"): "Thank you, goodbye.",
    ("close", "zh"): "感谢您的咨询，再见。",
    ("update_profile", "en"): "Thank you, I have noted that.",
    ("update_profile", "zh"): "好的，已为您记录。",
}
_log = logging.getLogger(__name__)


async def system_action(
    ctx: ActionContext, action: SystemAction, parameters: Mapping[str, Any], *, call_id: str | None = None
) -> ActionResult | NotAnswered:
    """What a system action does to the session, and its text: the template, or a short default in the message's language. A silent
    one says nothing, and its status is `silent`. `update_profile` patches the profile with the parameters and the rule's groups.

    An `endpoint` is called first; the call's idempotency key comes from `call_id`, where the action may run more than once in a turn.
    Its failure never keeps a user from a human, nor a session open: hand-off and close happen all the same, with the text of `on_error`
    if there is one, and the failure is logged. A profile whose call failed stays as it is: the text of `on_error`, else NotAnswered.
    Raises InDoubt for a call that must not be made twice and may have been made.
    """
    compiled = ctx.compiled.actions["system", action.id]
    patch = profile_patch(ctx, action, parameters) if action.handler == "update_profile" else None
    if patch:  # its own call and template see the profile as it will be
        ctx = replace(ctx, profile={**ctx.profile, **patch})
    variables = ctx.answer_variables(compiled, parameters)
    failed: Outcome | None = None
    text: str | None = None
    if compiled.endpoint is not None:
        refuse_doubtful(compiled, call_id, ctx.doubtful)
        key = f"{ctx.turn_id}:{call_id or f'system:{action.id}'}"
        outcome = await perform(compiled, variables, ctx.caller, deadline=ctx.deadline, idempotency_key=key)
        if outcome.fault is not None and not outcome.empty:  # an API that only takes note has nothing to say
            failed = outcome
            _log.warning("%s: its call failed: %s", compiled.name, outcome.fault)
        text = outcome.text if outcome.fault is not None or compiled.template else None
    elif compiled.template is not None:
        text = compiled.render(variables)
    if failed and patch is not None and not failed.text:
        return NotAnswered(failed.failure or compiled.name)
    fields = dict(BECOMES[action.handler])
    if patch is not None and not failed:
        fields["profile"] = patch
    if action.silent:
        return ActionResult("", action_type="system", action_target=action.id, **{**fields, "status": "silent"})
    text = text or _plain(compiled, variables) or _TEXT[action.handler, language_of(ctx.workflow, ctx.message)]
    return ActionResult.said(text, action_type="system", action_target=action.id, **fields)


def profile_patch(ctx: ActionContext, action: SystemAction, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the message changes in the user's profile: the rule's groups and the model's parameters, only those that the action declares
    where it declares any, never what the request's context gave. None removes a field. At most MAX_FIELDS, each of bounded size."""
    declared = object_schema(action.parameters)["properties"].keys() if action.parameters else None
    known = {name for name, value in ctx.profile.items() if value is not None}
    patch: dict[str, Any] = {}
    given = {**{name: value for name, value in ctx.groups.items() if value}, **parameters}
    for name, value in given.items():
        if name in ctx.context or len(name) > MAX_NAME or (declared is not None and name not in declared):
            continue
        if value is None:
            if name in known:
                patch[name] = None
                known.discard(name)
            continue
        value = _bounded(value)
        if value is None or len(known | {name}) > MAX_FIELDS:
            _log.warning("system %s: the profile takes no further or larger field: %.64r", action.id, name)
            continue
        known.add(name)
        patch[name] = value
    return patch


def _bounded(value: Any) -> Any:
    """The value, a text cut to its limit, None for anything else that is too large or no JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")[:MAX_VALUE_BYTES].decode("utf-8", "ignore")
    try:
        return value if len(orjson.dumps(value)) <= MAX_VALUE_BYTES else None
    except TypeError:
        return None


def _plain(compiled: CompiledAction, variables: Mapping[str, Any]) -> str:
    """The template without the call's result, where it can do without."""
    if compiled.template is None or "result" in compiled.template.names:
        return ""
    return compiled.template.render(variables)
