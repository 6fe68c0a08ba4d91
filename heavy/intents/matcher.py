"""The intent match: one deterministic LLM call that chooses an action by calling the tool that stands for it.

Whatever the model answers, an Intent comes out; nonsense becomes a plain message. What the action then does is not known here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from common.contracts.query import MatchedBy, Usage
from common.errors import DeadlineExceeded
from common.workflow.schema import Workflow
from heavy.agent import prompts
from heavy.agent.context import newest, words_only
from heavy.intents.candidates import REPLY_DIRECTLY, Candidate, candidates
from heavy.llm.types import Gateway, LLMRequest, Message

HISTORY_TOKENS = 4000  # recent dialogue is enough to choose an action
IntentKind = Literal["skill", "tool", "flow", "system", "message", "router"]

_TARGET_KEYS = ("action_target", "target", "action", "name", "tool", "function")
_PARAMETER_KEYS = ("parameters", "params", "arguments", "args", "input")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")


@dataclass(frozen=True, slots=True)
class Intent:
    """The action that is to answer. `target` is None for a plain message; `parameters` are what is known for the action.

    With the kind `router` the model chooses while it acts, and `target` is the skill that is in progress. `resumes` is the skill whose
    conversation goes on after this action.
    """

    kind: IntentKind
    target: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    matched_by: MatchedBy = "llm"
    resumes: str | None = None


PLAIN = Intent("message")


async def match_intent(
    gateway: Gateway,
    workflow: Workflow,
    history: Sequence[Message],
    message: str,
    *,
    escalated: str | None = None,
    deadline: float | None = None,
    hidden: Collection[str] = (),
    notes: Sequence[str] = (),
) -> tuple[Intent, Usage, Message | None]:
    """Asks the model which action answers `message`. Returns the intent, what it cost and the model's raw message.

    No model is asked when there is nothing to choose from. `escalated` says why a rule's own action failed; `hidden` names the
    request's context variables, `notes` stand behind the prompt; `deadline` is Unix seconds. Raises LLMError or DeadlineExceeded.
    """
    choices = candidates(workflow, hidden, keyword_flows=False)  # the LLM must not undo what their rules exclude
    if not choices:
        return Intent("message", matched_by="none"), Usage(), None
    recent = [] if workflow.multi_turn == "single" else newest(words_only(history), HISTORY_TOKENS)[1]
    note = f"An action that a rule chose for this message failed ({escalated}); do not choose it again." if escalated else None
    timeout = None
    if deadline is not None and (timeout := deadline - time.time()) <= 0:
        raise DeadlineExceeded("the time for this request is over")
    head = [Message("system", text) for text in (prompts.intent(workflow, note), prompts.with_notes("", *notes)) if text]
    request = LLMRequest(
        model=workflow.models.intent or workflow.models.default,
        messages=[*head, *recent, Message("user", message)],
        tools=[REPLY_DIRECTLY, *(c.spec for c in choices)],
        tool_choice="required",
        timeout=timeout,
        deterministic=True,
        purpose="intent",
    )
    completed = await gateway.complete(request)
    return read_intent(completed.message, choices), completed.usage, completed.message


def read_intent(answer: Message, choices: Sequence[Candidate]) -> Intent:
    """The intent in a model's answer: a tool call, or failing that a text that names an action; else a plain message."""
    for call in answer.tool_calls:
        if call.name == REPLY_DIRECTLY.name:
            return PLAIN
        if chosen := _named(call.name, choices):
            return _intent(chosen, _object(call.arguments))
        if named := _in_text(call.arguments, choices):  # one tool for all actions: {"action_target": …}
            return named
    return _in_text(answer.content, choices) or PLAIN


def _in_text(text: str, choices: Sequence[Candidate]) -> Intent | None:
    text = _FENCE.sub("", text.strip())
    doc = _object(text)
    if not doc:
        chosen = _named(text, choices) if len(text) <= 128 else None
        return _intent(chosen, {}) if chosen else None
    inner = next((doc[k] for k in ("next_action", "action", "function") if isinstance(doc.get(k), dict)), None)
    for node in (inner, doc):
        if not isinstance(node, dict):
            continue
        parameters: dict[str, Any] = next((node[k] for k in _PARAMETER_KEYS if isinstance(node.get(k), dict)), {})
        for key in _TARGET_KEYS:
            if isinstance(node.get(key), str) and (chosen := _named(node[key], choices)):
                return _intent(chosen, parameters)
    return None


def _named(name: str, choices: Sequence[Candidate]) -> Candidate | None:
    """The action of that name: exactly, else without regard to case, a namespace before it, or quotes around it."""
    loose = re.split(r"__|[.:/]", name.strip("\"'`. \n"))[-1].casefold()
    exact = (c for c in choices if name in (c.spec.name, c.target))
    return next(exact, None) or next((c for c in choices if loose and loose in (c.spec.name.casefold(), c.target.casefold())), None)


def _intent(chosen: Candidate, parameters: Mapping[str, Any]) -> Intent:
    kind: Any = chosen.kind
    known = {k: v for k, v in parameters.items() if v is not None and v != ""}
    return Intent(kind, chosen.target, {**chosen.defaults, **known})


def _object(text: str) -> dict[str, Any]:
    """The JSON object in a text, empty when there is none."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
