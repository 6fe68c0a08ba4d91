"""A provider's stream on its way to a client: whole events go on byte for byte as they come, and are looked at for usage and faults.

An event is decoded as JSON only where it may tell of either, and the first ones until the answer has begun. It knows no HTTP.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import orjson

from heavy.llm.providers.assembly import count
from heavy.llm.providers.failures import failed, from_body
from heavy.llm.sse import MAX_EVENT_BYTES, SSEDecoder
from heavy.llm.types import CallUsage, LLMCallFailed

RELAYED = "(relayed)"
"""`partial` of a failure behind the first byte: that text was passed on is known, which text is not kept."""

_END_OF_LINE = rb"(?:\r\n|\n|\r(?!\n))"
_BORDER = re.compile(_END_OF_LINE + _END_OF_LINE)
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class Passing(ABC):
    """One stream. `usage` is what the provider has told of it so far, `counted` whether that is its last word; `events` counts those that
    were passed on."""

    may_end = False  # whether a clean end now is a complete answer

    def __init__(self, *, hides_usage: bool = False) -> None:
        self.usage = CallUsage(llm_calls=1)
        self.counted = False
        self.started = False
        self.done = False
        self.events = 0
        self._hides_usage = hides_usage
        self._decoder = SSEDecoder()
        self._rest = b""
        self._held = b""  # what came before the first piece of the answer: another target may still take over

    @property
    def partial(self) -> str:
        """What a failure now has for the text so far."""
        return RELAYED if self.started else ""

    def feed(self, chunk: bytes) -> tuple[bytes, LLMCallFailed | None]:
        """What goes on now, and what is wrong behind it."""
        buffer = self._rest + chunk if self._rest else chunk
        end = _border(buffer)
        self._rest = buffer[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            return b"", self._failed("garbage", f"an event of more than {MAX_EVENT_BYTES} bytes")
        return self._pass(buffer[:end])

    def end(self) -> tuple[bytes, LLMCallFailed | None]:
        """The same at the end of the body, which may lack its last empty line."""
        rest, self._rest = self._rest, b""
        passed, failure = self._pass(rest, last=True)
        if failure is not None and failure.kind == "garbage" and rest:  # half an event is what a broken stream looks like
            failure = None
            if not self.done and not self.may_end:
                failure = self._failed("incomplete", "")
        elif failure is None and not self.done and not self.may_end:
            failure = self._failed("incomplete", "")
        return passed, failure

    def _pass(self, data: bytes, *, last: bool = False) -> tuple[bytes, LLMCallFailed | None]:
        if not data:
            return b"", None
        events = self._decoder.feed(data)
        if last:
            events += self._decoder.flush()
        failure: LLMCallFailed | None = None
        upto, hidden = len(events), -1
        for n, (kind, document) in enumerate(events):
            try:
                if not self._look(kind, document):
                    hidden = n
            except LLMCallFailed as e:
                failure, upto = e, n
                break
            if self.done:  # nothing behind the end is looked at
                upto = n + 1
                break
        if failure is None and self._decoder.unknown is not None and not self.done:
            failure = self._failed("garbage", f"a line that is no event: {self._decoder.unknown[:80]!r}")
        if failure is not None or hidden >= 0:
            data = b"".join(_blocks(data, upto, hidden))
        self.events += upto
        if not self.started:
            self._held += data
            return b"", failure
        data, self._held = self._held + data if self._held else data, b""
        return data, failure

    @abstractmethod
    def _look(self, kind: str, data: bytes) -> bool:
        """Takes in one event; False where the client is not to see it. Raises LLMCallFailed."""

    def _failed(self, kind: str, why: str) -> LLMCallFailed:
        return failed(kind, why=why, partial=self.partial, usage=self.usage)

    def _reported(self, doc: dict[str, Any]) -> LLMCallFailed:
        return from_body(doc, status=None, headers={}, partial=self.partial, usage=self.usage)

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            doc = orjson.loads(data)
        except orjson.JSONDecodeError as e:
            raise self._failed("garbage", f"not JSON: {e.msg}") from None
        if type(doc) is not dict:
            raise self._failed("garbage", "JSON, but no object")
        return doc


class ChatPassing(Passing):
    """Chunks of chat completions. [DONE] ends them; several servers leave it out behind a finish reason."""

    def _look(self, kind: str, data: bytes) -> bool:
        if data == b"[DONE]":
            if not self.may_end:
                raise self._failed("incomplete", "[DONE] without a finish reason")
            self.done = True
            return True
        if data[:1] != b"{" or data[-1:] != b"}":
            raise self._failed("garbage", "an event that is no JSON object")
        if not self.started and _says_something(self._object(data)):
            self.started = True
        if b'"error"' in data:
            doc = self._object(data)
            if doc.get("error") and not doc.get("choices"):
                raise self._reported(doc)
        if not self.may_end and _FINISHED.search(data):
            self.may_end = self.started = True
        if _HAS_USAGE.search(data):
            doc = self._object(data)
            self.usage, self.counted = chat_usage(doc), True
            return bool(doc.get("choices")) or not self._hides_usage
        return True


class MessagesPassing(Passing):
    """Events of Anthropic's messages: only message_stop ends them."""

    def __init__(self, *, hides_usage: bool = False) -> None:
        super().__init__(hides_usage=hides_usage)
        self._input: dict[str, int] = {}

    def _look(self, kind: str, data: bytes) -> bool:
        if data[:1] != b"{" or data[-1:] != b"}":
            raise self._failed("garbage", "an event that is no JSON object")
        if kind == "message":  # no type on the wire: the document has it
            kind = str(self._object(data).get("type"))
        if kind == "content_block_delta":
            self.started = True
        elif kind == "message_stop":
            self.done = self.started = True
        elif kind == "error":
            raise self._reported(self._object(data))
        elif kind == "message_start":
            message = self._object(data).get("message")
            self._count(message.get("usage") if type(message) is dict else None)
        elif kind == "message_delta":
            self._count(self._object(data).get("usage"))
            self.counted = True
        return True

    def _count(self, usage: Any) -> None:
        self.usage = messages_usage(usage if type(usage) is dict else {}, self._input, self.usage.output_tokens)


def chat_usage(doc: dict[str, Any]) -> CallUsage:
    """The usage that a completion or a chunk tells."""
    usage = doc.get("usage")
    if type(usage) is not dict:
        return CallUsage(llm_calls=1)
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if type(details) is dict else 0
    read, written = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    return CallUsage(llm_calls=1, input_tokens=read, cached_tokens=min(read, cached), output_tokens=written)


def messages_usage(usage: dict[str, Any], parts: dict[str, int], written: int) -> CallUsage:
    """The usage that a message or an event tells. `parts` of the input and what was `written` keep their last value where it tells none."""
    for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        if usage.get(name) is not None:
            parts[name] = count(usage[name])
    if usage.get("output_tokens") is not None:
        written = count(usage["output_tokens"])
    return CallUsage(
        llm_calls=1,
        input_tokens=sum(parts.values()),
        cached_tokens=parts.get("cache_read_input_tokens", 0),
        output_tokens=written,
        cache_write_tokens=parts.get("cache_creation_input_tokens", 0),
    )


def _says_something(doc: dict[str, Any]) -> bool:
    """Whether a chunk has a piece of the answer, and not only its role."""
    choices = doc.get("choices")
    if type(choices) is not list:
        return False
    deltas = [c.get("delta") or {} for c in choices if type(c) is dict]
    return any(value for delta in deltas if type(delta) is dict for name, value in delta.items() if name != "role")


def _border(buffer: bytes) -> int:
    """Where the last whole event ends."""
    if b"\r" not in buffer:
        return buffer.rfind(b"\n\n") + 2 if b"\n\n" in buffer else 0
    end = 0
    for border in _BORDER.finditer(buffer, 0, len(buffer) - buffer.endswith(b"\r")):  # a line feed may follow
        end = border.end()
    return end


def _blocks(data: bytes, upto: int, hidden: int) -> Iterator[bytes]:
    """The blocks of the first `upto` events, without the one numbered `hidden`; comments go with what they stand before."""
    n, start = 0, 0
    for end in [*(border.end() for border in _BORDER.finditer(data)), len(data)]:
        block, start = data[start:end], end
        reader = SSEDecoder()
        events = reader.feed(block) + reader.flush()
        if not block or reader.unknown is not None or (events and n >= upto):
            return
        if not events or n != hidden:
            yield block
        n += len(events)
