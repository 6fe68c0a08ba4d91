"""A turn's reply as OpenAI's chat completion: one document, or chunks of a stream that end with [DONE].

The id is `chatcmpl-<turn id>`, and `loadsplit` holds what the reply of /api/v1/query says beside its message. It knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from common.contracts.llm_errors import openai_error
from common.errors import LoadsplitError

DONE = b"data: [DONE]\n\n"


def refused(reply: Mapping[str, Any], *, formed: bool) -> bool:
    """Whether an answer that was asked for as data (`formed`) is words instead: a human has the session, or it is closed."""
    return formed and reply["status"] != "success"


def completion(reply: Mapping[str, Any], model: str, *, formed: bool = False) -> bytes:
    """The chat.completion of a /query reply."""
    said, other = ("refusal", "content") if refused(reply, formed=formed) else ("content", "refusal")
    message = {"role": "assistant", said: reply["message"], other: None}
    return orjson.dumps(
        {
            "id": f"chatcmpl-{reply['turn_id']}",
            "object": "chat.completion",
            "created": created(reply["turn_id"]),
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage(reply["usage"]),
            "loadsplit": beside(reply),
        }
    )


class Chunks:
    """Writes the chunks of one stream. A piece of text is not decoded: it goes from JSON to JSON as it is."""

    __slots__ = ("_after", "_before", "_include_usage", "_tail")

    def __init__(self, turn_id: str, model: str, *, include_usage: bool) -> None:
        head = {"id": f"chatcmpl-{turn_id}", "object": "chat.completion.chunk", "created": created(turn_id), "model": model}
        self._include_usage = include_usage
        self._before = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null' if include_usage else b"]"
        self._after = b'},"logprobs":null,"finish_reason":null}' + self._tail + b"}\n\n"

    def opening(self) -> bytes:
        """The chunk that names the role."""
        return self._before + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null' + self._after

    def text(self, piece: bytes) -> bytes:
        """A piece of the answer; `piece` is a JSON string."""
        return self._before + b'{"index":0,"delta":{"content":' + piece + self._after

    def refusal(self, piece: bytes) -> bytes:
        """Words where data was asked for; `piece` is a JSON string."""
        return self._before + b'{"index":0,"delta":{"refusal":' + piece + self._after

    def closing(self, reply: Mapping[str, Any]) -> bytes:
        """The last chunk, the usage where it was asked for, and [DONE]."""
        end = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'
        told = b',"loadsplit":' + orjson.dumps(beside(reply)) + b"}\n\n"
        last = self._before + end + self._tail + told
        if self._include_usage:
            last += self._before + b'],"usage":' + orjson.dumps(usage(reply["usage"])) + b"}\n\n"
        return last + DONE


def error_chunk(error: LoadsplitError, request_id: str) -> bytes:
    """An error behind the first byte: the stream ends with it, and without [DONE]."""
    return b"data: " + orjson.dumps(openai_error(error, request_id), default=str) + b"\n\n"


def created(turn_id: str) -> int:
    """Unix seconds, as the turn's id has them: so a reply that is replayed is the same to the byte. With an Idempotency-Key, the day's."""
    try:
        return int(turn_id[2:14], 16) // 1000
    except ValueError:
        return 0


def usage(spent: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's usage of a reply's."""
    read, written = spent["input_tokens"], spent["output_tokens"]
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": spent["cached_tokens"]},
    }


def beside(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What a reply says beside its message."""
    return {name: value for name, value in reply.items() if name != "message"}
