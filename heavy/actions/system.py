"""System actions: hand over to a human, close the session, note something about the user. No model, no call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.workflow.schema import SystemAction
from heavy.actions.context import ActionContext, ActionResult
from heavy.agent.prompts import language_of

_STATUS: Mapping[str, Any] = {
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


def system_action(ctx: ActionContext, action: SystemAction, parameters: Mapping[str, Any]) -> ActionResult:
    """What a system action does to the session, and its text: the template, or a short default in the message's language. A silent
    one says nothing, and its status is `silent`. `update_profile` patches the profile with the parameters and the rule's groups."""
    fields = dict(_STATUS[action.handler])
    if action.handler == "update_profile":
        patch = {**ctx.groups, **parameters}
        fields["profile"] = {k: v for k, v in patch.items() if v is not None and k not in ctx.context}
    if action.silent:
        return ActionResult("", action_type="system", action_target=action.id, **{**fields, "status": "silent"})
    text = ""
    if action.response_template:
        compiled = ctx.compiled.actions["system", action.id]
        text = compiled.render(ctx.answer_variables(compiled, parameters))
    text = text or _TEXT[action.handler, language_of(ctx.workflow, ctx.message)]
    return ActionResult.said(text, action_type="system", action_target=action.id, **fields)
