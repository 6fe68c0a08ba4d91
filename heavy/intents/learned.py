"""What may be learned of an intent match: that a message, word for word, always asks for one action whose parameters stand in it.

Pure: it keeps nothing. How often a match must repeat and where routes are kept is for `heavy.turns.learning`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.contracts.folding import fold
from common.contracts.learned import LearnedRoute, digest
from common.workflow.schema import Flow, Skill, SystemAction, Tool, Workflow
from heavy.agent.http_tools import MESSAGE_NAMES
from heavy.agent.names import DONE
from heavy.agent.said import SHOWN
from heavy.agent.toolbox import is_failure
from heavy.intents.candidates import candidates
from heavy.llm.types import Message

Action = Tool | Skill | Flow | SystemAction

# A negated message is left to the LLM for ever: what it asks for is most easily got wrong, and its wording says it only once.
_NEGATION = re.compile(
    r"""\b(?:not|no|none|never|nothing|nobody|neither|nor|without|except|unless|instead|cannot)\b
      | n['’]t\b | \b(?:do|does|did|is|are|was|were|ca|could|wo|would|should|has|have|had|ai)nt\b
      | \b(?:nicht|kein\w*|nie|niemals|ohne|pas|jamais|sans|nunca|sin|non|senza|não|sem|не|нет|без)\b
      | [不没沒别別无無勿未非莫甭否休] | ない|ません | [않못없]""",
    re.VERBOSE,
)
# Words that lean on something said before: such a message means another thing in the middle of a session than at its beginning.
_LEANING = re.compile(
    r"""\b(?:it|its|them|they|this|that|these|those|there|same|again|another|other|else|too|also|previous|last)\b
      | [它这這那该] | 刚才|上面|上一|另一|其他|同样|还是|これ|それ|あれ""",
    re.VERBOSE,
)
# What a schema may say of a parameter that is cut from the message: more than a form of its own would not be checked there.
_PLAIN_KEYS = frozenset({"type", "description", "title", "examples", "minLength", "maxLength"})


@dataclass(frozen=True, slots=True)
class Parameters:
    """What an action takes: the schema of each parameter, and those that its action books give."""

    schemas: Mapping[str, Any]
    defaults: Mapping[str, Any]


def parameters_of(workflow: Workflow) -> dict[tuple[str, str], Parameters]:
    """The parameters of every action that an LLM may choose, by (kind, id)."""
    return {(c.kind, c.target): Parameters(c.spec.parameters.get("properties") or {}, c.defaults) for c in candidates(workflow)}


def may_be_learned(message: str) -> bool:
    """Whether the message stands for itself: short, not negated, and leaning on nothing that was said before."""
    if digest(message) is None:
        return False
    folded = fold(message)
    return not _NEGATION.search(folded) and not _LEANING.search(folded)


def route_of(
    taken: Parameters, kind: str, target: str, found: Mapping[str, Any], message: str, hidden: Collection[str]
) -> LearnedRoute | None:
    """The route that repeats this choice for the same message, None when its parameters can't be had without an LLM.

    A parameter is had when the action books give it, or when its value stands in the message as it is. `hidden` are the names of the
    request's context: where one of them is a parameter, the choice was made without seeing it.
    """
    if taken.schemas.keys() & set(hidden) or (kind == "tool" and MESSAGE_NAMES & found.keys()):
        return None  # (a tool's own `message` would have to stand beside the user's)
    folded = fold(message)
    spans: dict[str, tuple[int, int]] = {}
    fixed: dict[str, Any] = {}
    for name, value in found.items():
        if name in taken.defaults and taken.defaults[name] == value:
            fixed[name] = value
            continue
        span = _span(value, folded)
        if span is None or not _plain(taken.schemas.get(name)):
            return None
        spans[name] = span
    route = LearnedRoute(kind, target, spans, fixed)
    return route if route.parameters(message) == dict(found) else None  # letter for letter: what the LLM put otherwise is its own


def acted_alone(action: Action, messages: Sequence[Message], llm_calls: int) -> bool:
    """Whether the chosen action was all that this turn did: then repeating it gives the same kind of answer. `messages` are the turn's.

    One call chose the action. Where more followed (the model looked at the result under its SOP, or put it into words), nothing else may
    have been called, and to what the user has read of the action itself no word been added.
    """
    if llm_calls <= 1 or (isinstance(action, Skill) and action.execution_mode == "agent"):
        return True
    calls = [call for m in messages for call in m.tool_calls if call.name != DONE]
    results = [m for m in messages if m.role == "tool" and calls and m.tool_call_id == calls[0].id]
    if len(calls) != 1 or not results or is_failure(results[0]):
        return False
    if isinstance(action, Tool) and not action.response_template:
        return True
    said = {m.content.strip() for m in messages if m.role == "assistant" and m.content.strip()}
    return results[0].author == SHOWN and said <= {results[0].content.strip()}


def _span(value: Any, folded: str) -> tuple[int, int] | None:
    """Where a text stands in the folded message, as whole words."""
    wanted = fold(value) if isinstance(value, str) else ""
    found = re.search(rf"(?<![^\W\u0250-\uffff]){re.escape(wanted)}(?![^\W\u0250-\uffff])", folded) if wanted else None
    return found.span() if found else None


def _plain(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.keys() <= _PLAIN_KEYS and schema.get("type", "string") == "string"
