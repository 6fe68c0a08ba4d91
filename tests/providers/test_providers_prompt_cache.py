"""What providers are told so that they cache the beginning of a prompt, and that it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.telemetry.metrics import Metrics
from heavy.llm.gateway import open_gateway
from heavy.llm.providers import anthropic, openai
from heavy.llm.providers.assembly import ToolNames
from heavy.llm.types import LLMRequest, Message, Spender, Target, ToolCall, ToolSpec
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile

LONG = "You are the clerk of a shop. " * 200
TOOLS = [ToolSpec(name, "A tool", {"type": "object", "properties": {}}) for name in ("one", "two")]
MARK = {"type": "ephemeral"}
EARLIER = [
    Message("system", LONG),
    Message("user", "Where is my order?"),
    Message("assistant", "Which one?"),
]
TURN = [
    Message("user", "A1001"),
    Message("assistant", "", (ToolCall("c1", "one", "{}"),)),
    Message("tool", "on its way", tool_call_id="c1"),
]


def body(messages: Sequence[Message], tools: Sequence[ToolSpec] = TOOLS, *, cache: bool = True, **members: Any) -> dict[str, Any]:
    target = Target("anthropic", "m", prompt_cache=cache)
    request = LLMRequest("default", messages, tools, **members)
    return anthropic.body(target, request, ToolNames(tools), True)


def marked(doc: dict[str, Any]) -> list[str]:
    """Where the breakpoints are."""
    found = [f"tools {n}" for n, tool in enumerate(doc.get("tools", ())) if tool.get("cache_control") == MARK]
    found += [f"system {n}" for n, block in enumerate(doc.get("system", ())) if block.get("cache_control") == MARK]
    for n, message in enumerate(doc["messages"]):
        found += [f"messages {n}.{k}" for k, block in enumerate(message["content"]) if block.get("cache_control") == MARK]
    return found


def test_anthropic_gets_a_mark_on_tools_system_earlier_turns_and_the_newest_message() -> None:
    assert marked(body([*EARLIER, *TURN])) == ["tools 1", "system 0", "messages 1.0", "messages 4.0"]
    assert marked(body([*EARLIER, *TURN[:1]])) == ["tools 1", "system 0", "messages 1.0", "messages 2.0"]


def test_without_earlier_turns_or_tools_there_are_fewer() -> None:
    assert marked(body([EARLIER[0], TURN[0]], [])) == ["system 0", "messages 0.0"]
    assert marked(body([Message("user", LONG)], [])) == ["messages 0.0"]


def test_what_a_second_system_message_says_is_not_part_of_the_beginning() -> None:
    doc = body([EARLIER[0], Message("system", "Found for this message: nothing."), TURN[0]])
    assert [block["text"] for block in doc["system"]] == [LONG, "Found for this message: nothing."]
    assert marked(doc) == ["tools 1", "system 0", "messages 0.0"]


def test_of_a_call_that_nobody_goes_on_from_only_the_beginning_is_kept() -> None:
    assert marked(body([*EARLIER, *TURN], deterministic=True)) == ["tools 1", "system 0"]


def test_short_prompts_and_targets_without_leave_are_not_marked() -> None:
    assert marked(body([Message("system", "Be brief."), *TURN])) == []
    assert marked(body([*EARLIER, *TURN], cache=False)) == []


@pytest.mark.parametrize(
    ("where", "spender", "key"),
    [
        ({}, Spender("t", "shop", "returns"), "shop/returns"),
        ({}, Spender("t", "shop"), "shop/skill"),
        ({"base_url": "https://api.openai.com/v1"}, Spender("t", "shop", "returns"), "shop/returns"),
        ({"base_url": "http://10.0.0.7/v1"}, Spender("t", "shop", "returns"), None),
        ({"prompt_cache": False}, Spender("t", "shop", "returns"), None),
        ({}, Spender("t"), None),
        ({}, None, None),
    ],
)
def test_openai_gets_a_key_by_agent_and_skill(where: dict[str, Any], spender: Spender | None, key: str | None) -> None:
    request = LLMRequest("default", TURN[:1], purpose="skill", spender=spender)
    doc = openai.body(Target("openai", "m", **where), request, ToolNames(()), True)
    assert doc.get("prompt_cache_key") == key


def test_a_long_key_is_shortened_and_stays_its_own() -> None:
    def key(skill: str) -> str:
        request = LLMRequest("default", TURN[:1], spender=Spender("t", "shop", skill))
        return str(openai.body(Target("openai", "m"), request, ToolNames(()), True)["prompt_cache_key"])

    assert len(key("x" * 100)) <= 64
    assert key("x" * 100) != key("x" * 99 + "y")


async def test_the_next_turn_reads_the_earlier_ones_from_the_cache_and_the_metric_says_so(name: str) -> None:
    metrics = Metrics()
    profile = Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "cache": True, "rules": [{"text": "Fine."}]})
    async with running(profile) as (url, _):
        target = Target(name, "m", base_url=f"{url}/v1", api_key="k")  # type: ignore[arg-type]
        async with open_gateway({"default": (target,)}, metrics) as gateway:
            first = await gateway.complete(LLMRequest("default", EARLIER[:2], TOOLS))
            request = LLMRequest("default", [*EARLIER[:2], first.message, Message("user", "And now?")], TOOLS)
            second = await gateway.complete(request)
            other = await gateway.complete(replace(request, messages=[Message("system", "Else. " + LONG), TURN[0]], tools=()))
    assert (first.usage.cached_tokens, other.usage.cached_tokens) == (0, 0)
    assert 0 < second.usage.input_tokens - second.usage.cached_tokens < 100  # the answer and the new message
    page = metrics.render().decode()
    assert f'loadsplit_llm_prompt_cache_total{{outcome="hit",target="{name}/m"}} 1.0' in page
    assert f'loadsplit_llm_prompt_cache_total{{outcome="miss",target="{name}/m"}} 2.0' in page
