"""What an attempt at a turn tells its readers: start and route once, the text as it comes, tool calls. A later attempt goes on where the
log ends. It knows the log only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from common.contracts.events import Event
from common.contracts.query import Route
from heavy.agent.steps import ToolEnded, ToolStarted
from heavy.turns.log import TurnLog


class Telling:
    """The events of one attempt. `text` is all that readers have seen, of earlier attempts, too, once `take_up` was called. `spoke`
    hears of each word and call of the answer, with the kind of its action."""

    def __init__(self, events: TurnLog, spoke: Callable[[str], None] = lambda kind: None) -> None:
        self.events = events
        self._spoke = spoke
        self._kind = ""
        self._said: list[str] = []

    @property
    def text(self) -> str:
        """The concatenation of all deltas."""
        return "".join(self._said)

    def take_up(self) -> str:
        """Goes on behind what earlier attempts have said; that text."""
        text = self.events.text()
        self._said = [text] if text else []
        return text

    def say(self, text: str) -> None:
        """One delta, unless it is empty."""
        if text:
            self._spoke(self._kind)
            self.greet(text)

    def greet(self, text: str) -> None:
        """Words that come before the answer: they say nothing of how long that takes."""
        self._said.append(text)
        self.events.emit(Event("text", {"delta": text}))

    def once(self, event_type: str, data: object) -> None:
        """`start` and `route` stand once in a log, also when a second attempt goes on with it."""
        mark = b'{"type":"' + event_type.encode() + b'"'
        if not any(line.startswith(mark) for line in self.events.lines[:2]):
            self.events.emit(Event(event_type, data))
        if isinstance(data, Route):
            self._kind = data.action_type

    def route(self) -> dict[str, Any] | None:
        """The route that was told, by this attempt or an earlier one."""
        for line in self.events.lines[:2]:
            doc = orjson.loads(line)
            if doc["type"] == "route":
                return doc["data"]
        return None

    def tool(self, item: ToolStarted | ToolEnded) -> None:
        """A tool call begins or has ended."""
        self._spoke(self._kind)
        call = item.call
        if isinstance(item, ToolStarted):
            self.events.emit(Event("tool_call", {"call_id": call.id, "name": call.name, "arguments": item.arguments}))
            return
        done = {"call_id": call.id, "name": call.name, "ok": item.ok}
        self.events.emit(Event("tool_result", {**done, "result": item.result, "duration_ms": item.duration_ms}))
