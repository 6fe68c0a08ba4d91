"""The official SDK clients, unmodified, against the simulator: streams, tools, JSON mode, a conversation each way."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from loadtests.simulators.llm import running
from tests.providers.calls import ORDER, quick

OPENAI_TOOL = {"type": "function", "function": {"name": ORDER.name, "description": ORDER.description, "parameters": ORDER.parameters}}
ANTHROPIC_TOOL = {"name": ORDER.name, "description": ORDER.description, "input_schema": ORDER.parameters}


async def test_openai_conversation_with_a_tool_and_a_stream() -> None:
    async with running(quick()) as (url, _), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        assert "demo" in [m.id async for m in client.models.list()]
        messages: list = [{"role": "user", "content": "Where is order A1007?"}]
        first = await client.chat.completions.create(model="demo", messages=messages, tools=[OPENAI_TOOL])  # type: ignore[list-item]
        call = first.choices[0].message.tool_calls[0]  # type: ignore[index]
        assert json.loads(call.function.arguments) == {"order_id": "A1007"}  # type: ignore[union-attr]
        messages += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": '{"order_id": "A1007", "status": "shipped"}'},
        ]
        stream = await client.chat.completions.create(
            model="demo",
            messages=messages,
            tools=[OPENAI_TOOL],  # type: ignore[list-item]
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "shipped" in text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_openai_tool_call_in_a_stream_and_json_schema() -> None:
    async with running(quick()) as (url, _), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        arguments = ""
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "order A1007"}],
            tools=[OPENAI_TOOL],  # type: ignore[list-item]
            tool_choice="required",
            stream=True,
        )
        async for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or []:
                arguments += call.function.arguments or ""  # type: ignore[union-attr]
        assert json.loads(arguments) == {"order_id": "A1007"}
        schema = {
            "type": "object",
            "properties": {"mood": {"enum": ["happy", "angry"]}, "score": {"type": "number"}, "about": {"type": "string"}},
        }
        reply = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "I am so angry about my order"}],
            response_format={"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}},  # type: ignore[arg-type]
        )
        value = json.loads(reply.choices[0].message.content or "")
        assert value["mood"] == "angry"
        assert isinstance(value["score"], float)


async def test_anthropic_conversation_with_a_tool_and_a_stream() -> None:
    async with running(quick()) as (url, _), anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
        messages: list = [{"role": "user", "content": "订单 A1007 到哪了？"}]
        first = await client.messages.create(model="demo", max_tokens=200, messages=messages, tools=[ANTHROPIC_TOOL])  # type: ignore[list-item]
        assert first.stop_reason == "tool_use"
        use = next(b for b in first.content if b.type == "tool_use")
        assert use.input == {"order_id": "A1007"}
        messages += [
            {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in first.content]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": use.id, "content": '{"order_id": "A1007", "status": "shipped"}'}],
            },
        ]
        text = ""
        async with client.messages.stream(model="demo", max_tokens=200, messages=messages, tools=[ANTHROPIC_TOOL]) as stream:  # type: ignore[list-item]
            async for piece in stream.text_stream:
                text += piece
            final = await stream.get_final_message()
    assert "shipped" in text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


async def test_anthropic_tool_call_in_a_stream() -> None:
    request: dict = {"model": "demo", "max_tokens": 200, "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}}
    async with running(quick()) as (url, _), anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
        stream = await client.messages.create(**request, messages=[{"role": "user", "content": "order A1007"}], stream=True)
        parts = [event async for event in stream]
    pieces = [e.delta.partial_json for e in parts if e.type == "content_block_delta" and e.delta.type == "input_json_delta"]
    assert json.loads("".join(pieces)) == {"order_id": "A1007"}


async def test_their_errors_are_the_sdks_own() -> None:
    async with running(quick(faults=[{"kind": 429, "every": 1}])) as (url, _):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "x"}])
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as other:
            with pytest.raises(anthropic.RateLimitError):
                await other.messages.create(model="demo", max_tokens=9, messages=[{"role": "user", "content": "x"}])
