"""A gateway that answers from a script instead of a model: deterministic, for tests of workflows and of everything above the gateway.

It keeps the Gateway protocol in full (deltas, usage, errors before and after the first token) and records what it was asked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.contracts.query import Usage
from heavy.llm.types import Chunk, Completed, FinishReason, LLMCallFailed, LLMRequest, Message, TextDelta, ToolCall

_WORD = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Say:
    """One scripted answer. `calls` are (tool name, arguments), arguments an object or the raw text; with `error` the call fails
    after `text` was sent. Call ids are c1, c2 … over the life of the gateway unless `ids` gives them."""

    text: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    error: LLMCallFailed | None = None
    ids: Sequence[str] = ()
    usage: Usage = field(default_factory=lambda: Usage(llm_calls=1, input_tokens=10, output_tokens=5))


Script = Sequence[Say] | Callable[[LLMRequest], Say]


class ScriptedGateway:
    """Answers call after call from a list, or by a function of the request. `requests` holds every request, oldest first."""

    def __init__(self, script: Script = (), *, context_tokens: int = 128_000) -> None:
        self._script = script if callable(script) else list(script)
        self._context_tokens = context_tokens
        self._calls = 0
        self.requests: list[LLMRequest] = []

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Word by word, then Completed. Raises LLMCallFailed where the script says so or has run out."""
        say = self._next(request)
        for word in _WORD.findall(say.text):
            yield TextDelta(word)
        yield self._completed(say)

    async def complete(self, request: LLMRequest) -> Completed:
        """The same without deltas."""
        return self._completed(self._next(request))

    def context_tokens(self, model: str) -> int:
        """The size given at construction, for every alias."""
        return self._context_tokens

    def _next(self, request: LLMRequest) -> Say:
        self.requests.append(request)
        if callable(self._script):
            return self._script(request)
        if not self._script:
            raise LLMCallFailed("the script has no further answer", kind="server_error")
        return self._script.pop(0)

    def _completed(self, say: Say) -> Completed:
        if say.error is not None:
            raise say.error
        calls = []
        for number, (name, arguments) in enumerate(say.calls):
            self._calls += 1
            call_id = say.ids[number] if number < len(say.ids) else f"c{self._calls}"
            calls.append(ToolCall(call_id, name, arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()))
        finish: FinishReason = "tool_calls" if calls else "stop"
        u = say.usage
        usage = Usage(u.llm_calls, u.input_tokens, u.cached_tokens, u.output_tokens, u.cost_usd)
        return Completed(Message("assistant", say.text, tuple(calls)), usage, finish, "scripted", "scripted/scripted")
