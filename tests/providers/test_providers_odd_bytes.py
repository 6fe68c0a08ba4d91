"""Streams that are odd but real: what compatible servers send, cut anywhere, and what must not pass for an answer."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from heavy.llm.types import CallUsage, ToolSpec
from tests.providers.calls import ADVICE, ORDER, Outcome, ask, call, open_provider, target
from tests.providers.raw import sending


def chunk(delta: dict[str, Any], finish: str | None = None, **members: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **members}) + b"\n\n"


def event(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **members}) + b"\n\n"


START = event(
    "message_start", message={"model": "m", "usage": {"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}}
)
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}) + event("message_stop")


async def openai(*chunks: bytes, tools: tuple[ToolSpec, ...] = (), timers: dict[str, float] | None = None, **server: Any) -> Outcome:
    async with sending(chunks, **server) as url, open_provider("openai") as provider:
        return await call(provider, target("openai", url, **timers or {}), ask(tools=tools))


async def anthropic(*chunks: bytes, tools: tuple[ToolSpec, ...] = (), **server: Any) -> Outcome:
    async with sending(chunks, **server) as url, open_provider("anthropic") as provider:
        return await call(provider, target("anthropic", url), ask(tools=tools))


async def test_every_byte_alone() -> None:
    stream = chunk({"role": "assistant"}) + chunk({"content": "壶 ☕"}) + chunk({}, "stop") + b"data: [DONE]\n\n"
    out = await openai(*(bytes([b]) for b in stream.replace(b"\n", b"\r\n")))
    assert out.done.message.content == "壶 ☕"


async def test_no_done_marker_but_a_finish_reason_is_complete() -> None:
    out = await openai(chunk({"content": "hi"}), chunk({}, "stop"))
    assert out.done.message.content == "hi"
    assert out.done.usage.llm_calls == 1
    assert out.done.usage.input_tokens == 0


async def test_no_done_marker_and_an_open_socket_ends_soon() -> None:
    began = time.monotonic()
    out = await openai(chunk({"content": "hi"}), chunk({}, "stop"), hold=True)
    assert out.done.message.content == "hi"
    assert time.monotonic() - began < 4


async def test_a_last_event_without_its_empty_line_counts() -> None:
    out = await openai(chunk({"content": "hi"}), chunk({"content": " there"}, "stop").rstrip(b"\n"))
    assert "".join(out.deltas) == out.done.message.content == "hi there"


async def test_half_a_last_event_is_incomplete() -> None:
    out = await openai(chunk({"content": "hi"}), chunk({"content": "x"}, "stop")[:-20])
    assert out.kind == "incomplete"


async def test_done_without_a_finish_reason_is_incomplete() -> None:
    out = await openai(chunk({"content": "hi"}), b"data: [DONE]\n\n")
    assert out.kind == "incomplete"


async def test_comments_and_empty_choices_are_passed_over() -> None:
    out = await openai(
        b": keep-alive\n\n", b'data: {"choices":[]}\n\n', chunk({"content": None}), chunk({"content": "a"}), chunk({}, "stop")
    )
    assert out.deltas == ["a"]


async def test_comments_do_not_stop_the_first_token_timer() -> None:
    out = await openai(*[b": keep-alive\n\n"] * 200, pause=0.02, timers={"first_token_timeout": 0.2})
    assert out.kind == "timeout"


@pytest.mark.parametrize(
    "line",
    [b"<html>busy</html>\n\n", b"data: 17\n\n", b'data: {"choices": 5}\n\n', b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'],
    ids=["no event", "no object", "no list", "no text"],
)
async def test_nonsense_is_garbage(line: bytes) -> None:
    out = await openai(chunk({"content": "hi"}), line, chunk({}, "stop"), b"data: [DONE]\n\n")
    assert out.kind == "garbage"
    assert out.error is not None
    assert out.error.partial == "hi"


async def test_interleaved_and_badly_numbered_tool_calls() -> None:
    def part(index: int | None, arguments: str, call_id: str | None = None, name: str | None = None) -> bytes:
        return chunk({"tool_calls": [{"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}]})

    stream = [
        part(0, "", "a", "get_order"),
        part(1, '{"need":', "b", "shop_advice"),
        part(0, '{"order_id":', None, "get_order"),  # some servers repeat the name
        part(1, ' "x"}'),
        part(0, ' "A1"}'),
        part(0, "{}", "c", "get_order"),  # a new id under an old number is a new call
        part(None, '{"order_id": "A', None, "get_order"),  # no number, no id
        part(None, '3"}'),
        chunk({}, "stop"),  # a tool call that ends with "stop"
    ]
    out = await openai(*stream, tools=(ORDER, ADVICE))
    calls = [(c.name, orjson.loads(c.arguments)) for c in out.done.message.tool_calls]
    assert calls == [
        ("get_order", {"order_id": "A1"}),
        ("shop.advice", {"need": "x"}),
        ("get_order", {}),
        ("get_order", {"order_id": "A3"}),
    ]
    assert all(c.id for c in out.done.message.tool_calls)
    assert out.done.finish_reason == "tool_calls"


async def test_one_json_document_instead_of_a_stream() -> None:
    doc = {"choices": [{"message": {"content": "whole"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    out = await openai(orjson.dumps(doc), content_type="application/json")
    assert out.deltas == ["whole"]
    assert out.done.finish_reason == "length"
    assert out.done.usage.input_tokens == 9


async def test_an_error_document_inside_a_200() -> None:
    body = orjson.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert (await anthropic(body, content_type="application/json")).kind == "overloaded"
    spent = orjson.dumps({"error": {"code": "insufficient_quota", "message": "…"}})
    assert (await openai(spent, content_type="application/json")).kind == "spend_limit"


async def test_an_error_status_without_json() -> None:
    out = await openai(b"<html>Bad gateway sk-secret</html>", content_type="text/html", status=502)
    assert out.kind == "server_error"
    assert out.error is not None
    assert "secret" not in out.error.detail


async def test_an_overload_within_an_anthropic_stream() -> None:
    out = await anthropic(START, event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    assert out.kind == "overloaded"
    assert out.error is not None
    assert out.error.usage is not None
    assert out.error.usage.input_tokens == 10


async def test_anthropic_without_its_last_event_is_incomplete() -> None:
    text = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    text += event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"})
    out = await anthropic(START, text, event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}))
    assert out.kind == "incomplete"


async def test_anthropic_thinking_unknown_events_and_counts() -> None:
    stream = [
        START,
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "secret"}),
        event("content_block_stop", index=0),
        event("something_new", data={"x": 1}),
        event("content_block_start", index=1, content_block={"type": "text", "text": "Hel"}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "lo"}),
        event(
            "content_block_start", index=2, content_block={"type": "tool_use", "id": "t1", "name": "get_order", "input": {"order_id": "A1"}}
        ),
        event("content_block_stop", index=2),
        END,
    ]
    out = await anthropic(*stream, tools=(ORDER,))
    assert out.done.message.content == "Hello"
    assert orjson.loads(out.done.message.tool_calls[0].arguments) == {"order_id": "A1"}
    assert (out.done.usage.input_tokens, out.done.usage.cached_tokens, out.done.usage.output_tokens) == (10, 3, 4)


async def test_anthropic_nonsense_is_garbage() -> None:
    out = await anthropic(START, event("content_block_delta", index=0), END)
    assert out.kind == "garbage"


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_is_not_followed(status: int) -> None:
    assert (await openai(b"", status=status, headers={"Location": "http://127.0.0.1:9/"})).kind == "server_error"
    assert (await anthropic(b"", status=status, headers={"Location": "http://127.0.0.1:9/"})).kind == "server_error"


async def test_what_anthropic_writes_into_its_cache_is_told_apart() -> None:
    out = await anthropic(START, event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"}), END)
    used = out.done.usage
    assert isinstance(used, CallUsage)
    assert (used.input_tokens, used.cached_tokens, used.cache_write_tokens, used.output_tokens) == (10, 3, 2, 4)
