"""Every action of a workflow as a tool of one agent run: tools, flows, function skills, agent skills, system actions; and MCP tools.

What a call did is read from the transcript again wherever it matters, so that any node can go on from the committed messages alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

import orjson

from common.contracts.idempotency import TOOL_CALL
from common.errors import ConfigInvalid
from common.workflow.schema import Flow, Skill, SystemAction, Tool
from heavy.actions.context import ActionContext, ActionResult, NotAnswered
from heavy.actions.flow import declared_call, missing
from heavy.actions.system import BECOMES, profile_patch, system_action
from heavy.actions.tool import perform_tool
from heavy.agent.tool_schema import Arguments
from heavy.agent.toolbox import Check, Toolbox, ToolResult, failed, is_failure
from heavy.intents.candidates import Candidate, candidates
from heavy.llm.types import Message, ToolCall, ToolSpec

_DONE = {"ok": True}
_TAKEN_OVER = {"ok": True, "note": "this skill goes on with the conversation from here"}


class Offer:
    """The actions that one run may call, and what came of the calls. `others` are tools that are no actions."""

    def __init__(self, ctx: ActionContext, others: Toolbox) -> None:
        self._ctx = ctx
        choices = candidates(ctx.workflow, ctx.context.keys())
        self._by_name = {c.spec.name: c for c in choices}
        self._by_target = {(c.kind, c.target): c for c in choices}
        specs: list[ToolSpec] = []
        checks: dict[str, Check] = {}
        for c in choices:
            parameters = c.spec.parameters
            inner: Check | None = None
            if c.kind == "tool":
                parameters, inner = ctx.compiled.tools[c.target].schema(ctx.context.keys())
            specs.append(replace(c.spec, parameters=parameters))
            checks[c.spec.name] = _Check(specs[-1], inner, c.defaults)
        named = {name: self._action(c) for name, c in self._by_name.items()}
        approval = [name for name, action in named.items() if isinstance(action, Tool) and action.approval]
        ending = [name for name, action in named.items() if _ends(action)]
        self.toolbox = Toolbox(specs, self._execute, checks, approval=approval, ending=ending).beside(others)

    def call(self, kind: str, target: str | None, parameters: Mapping[str, Any]) -> ToolCall | None:
        """The first call of a turn, for what the intent match chose; None for an action that the workflow does not have."""
        chosen = self._by_target.get((kind, target or ""))
        return ToolCall(TOOL_CALL, chosen.spec.name, orjson.dumps(dict(parameters), default=str).decode()) if chosen else None

    def lacks(self, call: ToolCall) -> str | None:
        """What a call needs and does not have, in words; None when it can be made."""
        chosen = self._by_name[call.name]
        try:
            arguments = self.toolbox.parse(call)
        except ValueError as e:
            return str(e)
        if chosen.kind not in ("flow", "skill"):
            return None
        action = self._ctx.compiled.actions[chosen.kind, chosen.target]
        return missing(action, self._ctx.answer_variables(action, arguments))

    def candidate(self, call: ToolCall) -> Candidate | None:
        """The action that a call means."""
        return self._by_name.get(call.name)

    def taken_over(self, transcript: Sequence[Message]) -> tuple[Skill, int] | None:
        """The agent skill that has taken the turn over, and the index behind the round in which it did."""
        for index, (call, result) in _answered(transcript):
            chosen = self.candidate(call)
            action = self._action(chosen) if chosen else None
            if isinstance(action, Skill) and action.execution_mode == "agent" and not is_failure(result):
                while index + 1 < len(transcript) and transcript[index + 1].role == "tool":
                    index += 1
                return action, index + 1
        return None

    def effects(self, transcript: Sequence[Message]) -> dict[str, Any]:
        """What the calls that succeeded mean for the turn: fields of an ActionResult. The last one is what answered."""
        fields: dict[str, Any] = {}
        patch: dict[str, Any] = {}
        for _, (call, result) in _answered(transcript):
            chosen = self.candidate(call)
            if chosen is None or is_failure(result):
                continue
            fields |= {"action_type": chosen.kind, "action_target": chosen.target}
            action = self._action(chosen)
            if isinstance(action, SystemAction):
                patch |= self._patch(action, call)
                fields |= BECOMES[action.handler]
            if getattr(action, "silent", False) and result.author is None:
                fields["status"] = "silent"
        return fields | ({"profile": patch} if patch else {})

    def _patch(self, action: SystemAction, call: ToolCall) -> dict[str, Any]:
        """What an executed call has changed in the profile."""
        if action.handler != "update_profile":
            return {}
        return profile_patch(self._ctx, action, self.toolbox.parse(call))

    def _action(self, chosen: Candidate) -> Tool | Skill | Flow | SystemAction:
        return self._ctx.compiled.declared[chosen.kind, chosen.target]

    async def _execute(self, call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        chosen = self._by_name[call.name]
        action = self._action(chosen)
        if isinstance(action, Tool):
            compiled = self._ctx.compiled.tools[chosen.target]
            return await perform_tool(self._ctx, compiled, call, arguments, shows=action.response_template is not None)
        if isinstance(action, SystemAction):
            done = await system_action(self._ctx, action, arguments, call_id=call.id)
            if isinstance(done, ActionResult) and action.handler == "update_profile" and done.profile is None:
                return failed(done.text or f"system {action.id}: nothing was noted")  # its own call failed: the profile is as it was
            return _read(done)
        if isinstance(action, Skill) and action.execution_mode == "agent":
            return ToolResult(True, _TAKEN_OVER)
        kind: Literal["flow", "skill"] = "skill" if isinstance(action, Skill) else "flow"
        result = None
        async with aclosing(declared_call(self._ctx, kind, chosen.target, arguments, call_id=call.id)) as steps:
            async for step in steps:
                result = step if isinstance(step, ActionResult | NotAnswered) else result
        read = _read(result)
        # without a template a function skill gives data, which the model puts into words
        return replace(read, shown="") if isinstance(action, Skill) and action.response_template is None else read


class _Check:
    """The check of one action's arguments, made when it is first called. What its action books give need not be repeated."""

    def __init__(self, spec: ToolSpec, inner: Check | None, defaults: Mapping[str, Any]) -> None:
        self._spec, self._inner, self._defaults = spec, inner, defaults

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments with the defaults. Raises ValueError with a sentence for the model."""
        if self._inner is None:
            try:
                self._inner = Arguments(self._spec.name, self._spec.parameters)
            except ConfigInvalid as e:
                raise ValueError(e.detail) from None
        if self._defaults:
            try:
                given = orjson.loads(text or "{}")
            except orjson.JSONDecodeError:
                given = None  # the check says what is wrong
            if isinstance(given, dict):
                text = orjson.dumps({**self._defaults, **given}).decode()
        return self._inner.parse(text)


def _ends(action: Tool | Skill | Flow | SystemAction) -> bool:
    """Whether nothing can follow this action in its turn."""
    if isinstance(action, Skill):
        return action.execution_mode == "agent"
    if isinstance(action, SystemAction):
        return action.silent or action.handler != "update_profile"
    return isinstance(action, Flow) and action.silent


def _answered(transcript: Sequence[Message]) -> list[tuple[int, tuple[ToolCall, Message]]]:
    """The calls that have a result, in order, each with the index of its message."""
    out = []
    for index, m in enumerate(transcript):
        results: dict[str | None, Message] = {}
        behind = index + 1
        while m.tool_calls and behind < len(transcript) and transcript[behind].role == "tool":
            results[transcript[behind].tool_call_id] = transcript[behind]
            behind += 1
        out += [(index, (c, results[c.id])) for c in m.tool_calls if c.id in results]
    return out


def _read(result: ActionResult | NotAnswered | None) -> ToolResult:
    """How an action ended, as the model is to read it."""
    if not isinstance(result, ActionResult):
        return failed(result.reason if result else "the action gave nothing")
    return ToolResult(True, result.text or _DONE, shown=result.text)
