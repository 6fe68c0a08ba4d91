"""Brings an answer into the form that the caller wants: one JSON object that fits a schema. A model writes it from the finished turn, it is
checked, and once the model may mend what did not fit. It knows neither turns nor their events.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jsonschema_rs
import orjson

from common.contracts.form import SCHEMA_FIELD
from common.contracts.query import Usage
from common.errors import ConfigInvalid, DeadlineExceeded, InvalidRequest
from heavy.agent.tool_schema import never_fetched, refuse_remote, sentence
from heavy.llm.types import Gateway, LLMCallFailed, LLMRequest, Message, ToolSpec

TOOL = "give_answer"
ATTEMPTS = 2
_MOST_PROBLEMS = 5
_SYSTEM = (
    "You turn an assistant's answer into data for a program. Call the tool give_answer once, with the answer to the user's last message in "
    "the form that its parameters state. Take facts only from this conversation; where it does not say something that is required, use the "
    "value that says so best (null, an empty string, an empty list). Keep the user's language."
)
_ASK = "Now give the answer as data."


class Form:
    """A JSON Schema that answers must fit. Raises InvalidRequest for one that is no schema, or that refers to another document."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        try:
            refuse_remote(schema, "the form")
            # patterns come from whoever asks: an engine without backtracking takes time in proportion to the text
            self._validator = jsonschema_rs.validator_for(
                dict(schema), retriever=never_fetched, pattern_options=jsonschema_rs.RegexOptions()
            )
        except ConfigInvalid as e:
            raise InvalidRequest(f"{SCHEMA_FIELD}: {e.detail}", field=SCHEMA_FIELD) from None
        except ValueError as e:
            raise InvalidRequest(f"{SCHEMA_FIELD} is no valid JSON Schema: {str(e).splitlines()[0][:300]}", field=SCHEMA_FIELD) from None

    def problem(self, text: str) -> str | None:
        """What is wrong with an answer, None where it fits."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as e:
            return f"it is not valid JSON ({e})"
        found = [sentence(e) for e in self._validator.iter_errors(value)]
        return "; ".join(found[:_MOST_PROBLEMS]) or None


async def in_form(
    form: Form, talk: Sequence[Message], answer: str, *, gateway: Gateway, model: str, deadline: float | None, usage: Usage
) -> str:
    """The answer as JSON text. `talk` is the turn with the answer at its end; an answer that fits already is given as it stands.

    What the calls cost is added to `usage`. Raises LLMError, also where the answer still does not fit; DeadlineExceeded.
    """
    if form.problem(answer) is None:
        return answer.strip()
    tool = ToolSpec(TOOL, "Gives the answer to the program that asked.", form.schema)
    messages = [Message("system", _SYSTEM), *(replace(m, author=None) for m in talk if m.role != "system"), Message("user", _ASK)]
    problem: str | None = None
    for _ in range(ATTEMPTS):
        left = None if deadline is None else deadline - time.time()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the time for this request is over")
        done = await gateway.complete(LLMRequest(model, messages, (tool,), TOOL, timeout=left, deterministic=True, purpose="form"))
        usage.add(done.usage)
        call = next(iter(done.message.tool_calls), None)
        written = (call.arguments if call else done.message.content).strip()
        problem = form.problem(written)
        if problem is None:
            return written
        wrong = f"That does not fit: {problem}. Call {TOOL} again with what fits."
        if call is None:
            messages += [done.message, Message("user", wrong)]
        else:
            results = [Message("tool", wrong, tool_call_id=c.id) for c in done.message.tool_calls]
            messages += [done.message, *results]
    raise LLMCallFailed(f"the answer could not be brought into the form asked for: {problem}", kind="garbage")
