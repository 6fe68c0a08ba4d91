"""The answer while it arrives: text, tool calls from deltas, token counts, the end. Shared by the providers; it knows no wire format."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

import orjson

from heavy.llm.types import CallUsage, Completed, FinishReason, Message, Target, ToolCall, ToolSpec

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class ToolNames:
    """Tool names as providers take them ([A-Za-z0-9_-], at most 64 characters) and back. Two names never become one."""

    def __init__(self, tools: Iterable[ToolSpec], also: Iterable[str] = ()) -> None:
        self._out: dict[str, str] = {}
        self._back: dict[str, str] = {}
        names = [t.name for t in tools]
        # Names that need no change go first, so that none of them loses its own to a changed one.
        for name in sorted(dict.fromkeys([*names, *also]), key=lambda n: n != _sent(n)):
            self._add(name)

    def _add(self, name: str) -> str:
        sent, n = _sent(name), 2
        while sent in self._back:
            sent, n = f"{_sent(name)[:60]}_{n}", n + 1
        self._out[name], self._back[sent] = sent, name
        return sent

    def out(self, name: str) -> str:
        """The name on the wire."""
        return self._out.get(name) or self._add(name)

    def back(self, sent: str) -> str:
        """Our name for what the model called; an invented one stays as it is."""
        return self._back.get(sent, sent)


def _sent(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:64] or "_"


class _Call:
    __slots__ = ("arguments", "id", "name")

    def __init__(self, call_id: str, name: str) -> None:
        self.id = call_id
        self.name = name
        self.arguments: list[str] = []


class Assembly:
    """Collects one answer. `add_*` in the order of arrival; `completed` once, at the end. The counts go into `told`, where it is given."""

    def __init__(self, target: Target, names: ToolNames, told: CallUsage | None = None) -> None:
        self._target = target
        self._names = names
        self._text: list[str] = []
        self._calls: list[_Call] = []
        self._open: dict[Any, _Call] = {}
        self.usage = told or CallUsage(llm_calls=1)
        self.finish: FinishReason | None = None
        self.model = ""

    @property
    def partial(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def started(self) -> bool:
        """Whether anything of the answer has come: text, or a piece of a tool call."""
        return bool(self._text or self._calls)

    @property
    def calls_begun(self) -> bool:
        """Whether the model has begun to call a tool."""
        return bool(self._calls)

    def add_text(self, text: str) -> None:
        """A piece of text."""
        self._text.append(text)

    def add_call(self, index: Any, call_id: Any, name: Any, arguments: Any) -> None:
        """A piece of a tool call. Pieces of one call share `index`; a new id under a known index begins another call
        (some servers number every call 0), and so does a piece with a name but no index."""
        call = self._open.get(index) if index is not None else (self._calls[-1] if self._calls and not name and not call_id else None)
        if call is None or (call_id and call.id and call_id != call.id):
            call = _Call(call_id if isinstance(call_id, str) else "", name if isinstance(name, str) else "")
            self._calls.append(call)
            if index is not None:
                self._open[index] = call
        else:
            call.id = call.id or (call_id if isinstance(call_id, str) else "")
            call.name = call.name or (name if isinstance(name, str) else "")
        if arguments:
            call.arguments.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())

    def completed(self) -> Completed:
        """The whole answer. Ids that are missing or double get new ones, empty arguments become an empty object."""
        seen: set[str] = set()
        calls = []
        for call in self._calls:
            call_id = call.id
            if not call_id or call_id in seen:
                call_id = f"call_{uuid.uuid4().hex[:24]}"
            seen.add(call_id)
            calls.append(ToolCall(call_id, self._names.back(call.name), "".join(call.arguments).strip() or "{}"))
        finish = self.finish or "stop"
        if calls and finish == "stop":  # some servers end a tool call with "stop"
            finish = "tool_calls"
        elif finish == "tool_calls" and not calls:
            finish = "stop"
        message = Message("assistant", self.partial, tuple(calls))
        return Completed(message, self.usage, finish, self.model or self._target.model, self._target.name)


def as_object(arguments: str) -> dict[str, Any]:
    """Tool arguments as the object that a provider wants back; what is not a JSON object becomes an empty one."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int:
    """A token count from a reply: a non-negative integer, else 0."""
    return value if type(value) is int and value > 0 else 0
