"""Both providers against the simulator: text, streams, tools, usage, names, histories."""

from __future__ import annotations

import orjson
import pytest

from heavy.llm.types import LLMRequest, Message, Provider, ToolCall, ToolSpec
from loadtests.simulators.llm import running
from tests.providers.calls import ADVICE, ORDER, ask, call, quick, target


@pytest.mark.parametrize("streaming", [True, False])
async def test_text(name: str, provider: Provider, streaming: bool) -> None:
    async with running(quick(rules=[{"text": "Guten Tag, 你好 – how are you?\n\nFine."}])) as (url, _):
        out = await call(provider, target(name, url), ask(), streaming=streaming)
    assert out.done.message == Message("assistant", "Guten Tag, 你好 – how are you?\n\nFine.")
    assert out.done.finish_reason == "stop"
    assert out.done.target == f"{name}/demo"
    assert out.done.model == "demo"
    assert "".join(out.deltas) == (out.done.message.content if streaming else "")
    assert (len(out.deltas) > 3) is streaming


@pytest.mark.parametrize("streaming", [True, False])
async def test_several_tool_calls_beside_text(name: str, provider: Provider, streaming: bool) -> None:
    calls = [{"name": "get_order", "arguments": {"order_id": "A1001"}}, {"name": "shop_advice", "arguments": {"need": 'a "red" 壶'}}]
    async with running(quick(rules=[{"text": "Let me look.", "tool_calls": calls}])) as (url, _):
        out = await call(provider, target(name, url), ask(tools=(ORDER, ADVICE)), streaming=streaming)
    message = out.done.message
    assert message.content == "Let me look."
    assert [c.name for c in message.tool_calls] == ["get_order", "shop.advice"]  # the name comes back as we know it
    assert [orjson.loads(c.arguments) for c in message.tool_calls] == [{"order_id": "A1001"}, {"need": 'a "red" 壶'}]
    assert len({c.id for c in message.tool_calls}) == 2
    assert out.done.finish_reason == "tool_calls"


@pytest.mark.parametrize("streaming", [True, False])
async def test_usage_counts_all_input_and_its_cached_part(name: str, provider: Provider, streaming: bool) -> None:
    question = ask("Please tell me about the kettle. " * 20)
    async with running(quick(rules=[{"text": "one two three"}])) as (url, simulator):
        first = await call(provider, target(name, url), question, streaming=streaming)
        second = await call(provider, target(name, url), question, streaming=streaming)
        stats = simulator.stats()
    assert first.done.usage.llm_calls == 1
    assert first.done.usage.cached_tokens == 0
    assert first.done.usage.input_tokens > 100
    assert second.done.usage.input_tokens == first.done.usage.input_tokens == second.done.usage.cached_tokens
    assert second.done.usage.output_tokens > 0
    assert stats["input_tokens"] == 2 * first.done.usage.input_tokens


@pytest.mark.parametrize(
    ("choice", "seen"), [("auto", "auto"), ("none", "none"), ("required", "required"), ("shop.advice", "shop_advice")], ids=lambda v: str(v)
)
async def test_tool_choice(name: str, provider: Provider, choice: str, seen: str) -> None:
    async with running(quick()) as (url, simulator):
        out = await call(provider, target(name, url), ask("order A1001", tools=(ORDER, ADVICE), tool_choice=choice))
        assert simulator.last[0]["tool_choice"] == seen
    if choice == "none":
        assert not out.done.message.tool_calls
    elif choice == "shop.advice":
        assert out.done.message.tool_calls[0].name == "shop.advice"


async def test_a_history_with_tools_is_accepted_and_read_back(name: str, provider: Provider) -> None:
    history = [
        Message("system", "You handle orders."),
        Message("assistant", "Welcome!"),
        Message("user", "Two orders, please."),
        Message(
            "assistant", "", (ToolCall("functions.get:0", "get_order", '{"order_id": "A1001"}'), ToolCall("b", "shop.advice", "{broken"))
        ),
        Message("tool", '{"status": "shipped"}', tool_call_id="functions.get:0"),
        Message("tool", '{"error": "no JSON"}', tool_call_id="b"),
        Message("assistant", ""),
        Message("user", " "),
    ]
    async with running(quick(rules=[{"when": {"system": "handle orders"}, "text": "ok"}])) as (url, simulator):
        out = await call(provider, target(name, url), LLMRequest("default", history, tools=(ORDER, ADVICE), purpose="skill"))
        without_tools = await call(provider, target(name, url), LLMRequest("default", history))
        last = simulator.last[0]
    assert out.done.message.content == without_tools.done.message.content == "ok"
    assert last["purpose"] == "skill"


async def test_two_tools_whose_names_look_alike_on_the_wire_stay_two(name: str, provider: Provider) -> None:
    tools = tuple(ToolSpec(n, "d", {"type": "object"}) for n in ("a.b", "a_b", "a/b"))
    async with running(quick()) as (url, simulator):
        for tool in tools:
            out = await call(provider, target(name, url), ask(tools=tools, tool_choice=tool.name))
            assert out.done.message.tool_calls[0].name == tool.name
        assert len(set(simulator.last[0]["tools"])) == 3


async def test_empty_arguments_become_an_empty_object_and_double_ids_are_told_apart(name: str, provider: Provider) -> None:
    calls = [{"id": "same", "name": "get_order", "arguments": ""}, {"id": "same", "name": "get_order", "arguments": {"order_id": "A1"}}]
    async with running(quick(rules=[{"tool_calls": calls}])) as (url, _):
        out = await call(provider, target(name, url), ask(tools=(ORDER,)))
    first, *rest = out.done.message.tool_calls
    assert first.arguments == "{}"
    assert name == "openai" or orjson.loads(rest[0].arguments) == {"order_id": "A1"}
    assert len({c.id for c in out.done.message.tool_calls}) == len(out.done.message.tool_calls)


async def test_truncated_tool_arguments_come_as_they_are(name: str, provider: Provider) -> None:
    profile = quick(
        rules=[{"tool_calls": [{"name": "get_order", "arguments": {"order_id": "A1001"}}]}],
        faults=[{"kind": "truncated_tool_json", "every": 1}],
    )
    async with running(profile) as (url, _):
        out = await call(provider, target(name, url), ask(tools=(ORDER,)))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(out.done.message.tool_calls[0].arguments)


async def test_connections_are_kept_between_calls(name: str, provider: Provider) -> None:
    async with running(quick(rules=[{"text": "hi"}])) as (url, simulator):
        for _ in range(3):
            await call(provider, target(name, url), ask())
        assert simulator.calls == 3
        connector = provider._connections._session.connector  # type: ignore[attr-defined]
        assert sum(map(len, connector._conns.values())) == 1
