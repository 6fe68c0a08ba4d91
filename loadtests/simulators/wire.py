"""An answer in both wire formats, as one JSON document or as a stream of events. It knows response bodies and nothing of requests."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PIECES = re.compile(
    r"\s*[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef\u3000-\u303f]{1,2}|\s*[^\s\u3040-\u30ff\u3400-\u9fff\uff00-\uffef\u3000-\u303f]+|\s+$"
)
_ARGUMENT_PIECE = 8


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call to send; `arguments` is JSON text, perhaps broken on purpose."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send, with its token counts."""

    id: str
    model: str
    text: str
    calls: tuple[ToolUse, ...]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """Token counts that a reply has told so far; a later event of it replaces them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0


def told_by(event: bytes, answer: Answer) -> Told | None:
    """What an event of a stream tells of the tokens, None when nothing."""
    if event.startswith(b"event: message_start"):
        return Told(answer.input_tokens, answer.cached_tokens, answer.cache_write_tokens, 1)
    if event.startswith(b"event: message_delta") or b'"choices":[],"usage":' in event:
        return told_whole(answer)
    return None


def told_whole(answer: Answer) -> Told:
    """What a whole answer tells."""
    return Told(answer.input_tokens, answer.cached_tokens, answer.cache_write_tokens, answer.output_tokens)


def pieces(text: str) -> list[str]:
    """A text as a model would stream it: word by word, Chinese two characters at a time. They concatenate to the text."""
    return _PIECES.findall(text)


def error_body(provider: str, kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    """An error as each provider words it; `kind` is Anthropic's type, which OpenAI's own types resemble enough."""
    if provider == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def openai_json(answer: Answer) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in answer.calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if answer.calls else "stop"}
    return {**_openai_head(answer, "chat.completion"), "choices": [choice], "usage": _openai_usage(answer)}


def openai_events(answer: Answer, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The stream of a chat completion: (event, whether it is a token of the answer)."""
    head = _openai_head(answer, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""}), False
    for piece in pieces(answer.text):
        yield chunk({"content": piece}), True
    for n, call in enumerate(answer.calls):
        yield (
            chunk({"tool_calls": [{"index": n, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}]}),
            True,
        )
        for part in _parts(call.arguments):
            yield chunk({"tool_calls": [{"index": n, "function": {"arguments": part}}]}), True
    yield chunk({}, "tool_calls" if answer.calls else "stop"), False
    if usage:
        yield _data({**head, "choices": [], "usage": _openai_usage(answer)}), False
    yield b"data: [DONE]\n\n", False


def anthropic_json(answer: Answer) -> dict[str, Any]:
    """A message."""
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    content += [{"type": "tool_use", "id": c.id, "name": c.name, "input": _object(c.arguments)} for c in answer.calls]
    return {
        **_anthropic_head(answer),
        "content": content,
        "stop_reason": "tool_use" if answer.calls else "end_turn",
        "usage": _anthropic_usage(answer),
    }


def anthropic_events(answer: Answer) -> Iterator[tuple[bytes, bool]]:
    """The stream of a message: (event, whether it is a token of the answer)."""
    start = {**_anthropic_head(answer), "content": [], "stop_reason": None, "usage": {**_anthropic_usage(answer), "output_tokens": 1}}
    yield _event("message_start", message=start), False
    yield _event("ping"), False
    index = 0
    if answer.text:
        yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""}), False
        for piece in pieces(answer.text):
            yield _event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece}), True
        yield _event("content_block_stop", index=index), False
        index += 1
    for call in answer.calls:
        yield (
            _event("content_block_start", index=index, content_block={"type": "tool_use", "id": call.id, "name": call.name, "input": {}}),
            True,
        )
        for part in _parts(call.arguments):
            yield _event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": part}), True
        yield _event("content_block_stop", index=index), False
        index += 1
    stop = "tool_use" if answer.calls else "end_turn"
    yield _event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": answer.output_tokens}), False
    yield _event("message_stop"), False


def _openai_head(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.model,
        "system_fingerprint": "fp_simulator",
    }


def _openai_usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def _anthropic_head(answer: Answer) -> dict[str, Any]:
    return {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "model": answer.model, "stop_sequence": None}


def _anthropic_usage(answer: Answer) -> dict[str, Any]:
    """Here the parts that were read from the cache and written into it are counted beside the rest, not within it."""
    return {
        "input_tokens": answer.input_tokens - answer.cached_tokens - answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "output_tokens": answer.output_tokens,
    }


def _parts(arguments: str) -> list[str]:
    return [arguments[n : n + _ARGUMENT_PIECE] for n in range(0, len(arguments), _ARGUMENT_PIECE)]


def _data(doc: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(doc, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _event(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + _data({"type": kind, **members})


def _object(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
