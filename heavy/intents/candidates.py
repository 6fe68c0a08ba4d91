"""The actions of a workflow as tools of one LLM call: which there are, how they are named and described, what they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from common.endpoints.template import Template
from common.workflow.schema import Endpoint, Flow, Skill, SystemAction, Tool, Workflow
from heavy.agent import prompts
from heavy.agent.names import DONE, wire_names
from heavy.agent.tool_schema import NOTHING, SYSTEM_NAMES, object_schema
from heavy.llm.types import ToolSpec

REPLY_DIRECTLY = ToolSpec("reply_directly", prompts.REPLY_DIRECTLY, NOTHING)
_MESSAGE_NAMES = frozenset({"message", "user_message", "raw_input", "result", "input", "context", "profile"})
_KINDS = {"skill": "Skill", "tool": "Tool", "flow": "Flow", "system": "System action"}
_HANDLERS = {
    "handoff": "Hands the conversation over to a human.",
    "close": "Ends the conversation.",
    "update_profile": "Notes what the user says about themselves.",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An action that may be chosen. `defaults` are the parameters that its action books give."""

    kind: str
    target: str
    spec: ToolSpec
    defaults: Mapping[str, Any]


def candidates(workflow: Workflow, hidden: Collection[str] = (), *, keyword_flows: bool = True) -> list[Candidate]:
    """Everything that the LLM may choose: what action books name first, by priority; then skills, tools, intent flows, with `keyword_flows`
    those that have rules, system actions. Books that name nothing known are passed over. `hidden` are names that the system fills in, so
    they are no parameters."""
    books = sorted(workflow.action_books, key=lambda b: -b.priority)
    order: dict[tuple[str, str], Tool | Skill | Flow | SystemAction] = {}
    for book in books:
        if action := workflow.action(book.action_type, book.action_target):
            order.setdefault((book.action_type, action.id), action)
    by_kind: list[tuple[str, tuple[Tool | Skill | Flow | SystemAction, ...]]] = [
        ("skill", workflow.skills),
        ("tool", workflow.tools),
        ("flow", tuple(f for f in workflow.flows if f.type == "intent")),
        ("flow", tuple(f for f in workflow.flows if f.type != "intent") if keyword_flows else ()),
        ("system", workflow.system_actions),
    ]
    for kind, actions in by_kind:
        for action in actions:
            order.setdefault((kind, action.id), action)
    names = wire_names((target for _, target in order), reserved={REPLY_DIRECTLY.name, DONE})
    out = []
    for name, ((kind, target), action) in zip(names, order.items(), strict=True):
        mine = [b for b in books if (b.action_type, b.action_target) == (kind, target)]
        defaults = {k: v for b in reversed(mine) for k, v in b.parameters.items()}
        spec = ToolSpec(name, _description(kind, action, [b.condition for b in mine]), _parameters(action, hidden))
        out.append(Candidate(kind, target, spec, defaults))
    return out


def _description(kind: str, action: Tool | Skill | Flow | SystemAction, conditions: list[str]) -> str:
    parts = [_KINDS[kind] + (f" “{action.name}”" if action.name and action.name != action.id else "") + "."]
    if isinstance(action, SystemAction):
        parts.append(_HANDLERS[action.handler])
    if action.description:
        parts.append(action.description if action.description.endswith((".", "。", "!", "?")) else action.description + ".")
    if conditions:
        parts.append("Choose it when: " + "; or: ".join(conditions))
    return " ".join(parts)[:1024]


def _parameters(action: Tool | Skill | Flow | SystemAction, hidden: Collection[str]) -> Mapping[str, Any]:
    if isinstance(action, Tool | SystemAction):
        # what is missing is asked for later, so a half-known tool can be chosen: nothing is required here
        schema = object_schema(action.parameters, hidden)
        return {k: v for k, v in schema.items() if k not in ("required", "additionalProperties")}
    if isinstance(action, Skill):
        if action.execution_mode == "agent":
            return NOTHING
        return {"type": "object", "properties": {"input": {"type": "string", "description": "The text to work on, in the user's words."}}}
    return _flow_parameters(action, hidden)


def _flow_parameters(flow: Flow, hidden: Collection[str]) -> Mapping[str, Any]:
    """What the flow's endpoint and template ask for and neither the system nor the message gives: usually its rules' groups."""
    names = _placeholders(flow.response_template)
    if flow.endpoint is not None:
        names |= _endpoint_names(flow.endpoint)
    names |= {s for s in flow.parameter_mapping.values() if "." not in s}
    names -= flow.parameter_mapping.keys() | SYSTEM_NAMES | _MESSAGE_NAMES | set(hidden)
    return {"type": "object", "properties": {n: {"type": "string"} for n in sorted(names)}}


def _endpoint_names(endpoint: Endpoint) -> set[str]:
    return _placeholders([endpoint.url, endpoint.headers, endpoint.query_params, endpoint.body])


def _placeholders(node: Any) -> set[str]:
    if isinstance(node, str):
        try:
            return set(Template.parse(node).names)
        except ValueError:
            return set()  # refused when the action is compiled; here it only names nothing
    if isinstance(node, Mapping):
        node = list(node.values())
    return set().union(*(_placeholders(v) for v in node)) if isinstance(node, list | tuple) else set()
