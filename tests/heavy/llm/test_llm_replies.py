"""Kept replies: the very same deterministic call of one tenant gets the same reply for a while without asking a model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from common.contracts.query import Usage
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from heavy.llm.aliases import Alias, Group
from heavy.llm.gateway import open_gateway
from heavy.llm.replies import MOST_BYTES
from heavy.llm.types import Completed, LLMRequest, Message, Spender, Target, TextDelta, ToolCall, ToolSpec
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile
from tests.support.llm_books import RecordingBooks
from tests.support.waiting import wait_until

TOOL = ToolSpec("get_order", "Look up", {"type": "object", "properties": {"id": {"type": "string"}}})
CALL = {"name": "get_order", "arguments": {"id": "A1"}, "id": "c1"}
PROFILE = Profile.model_validate(
    {"first_token_ms": 0, "token_ms": 0, "rules": [{"when": {"user": "order"}, "tool_calls": [CALL]}, {"text": "It is a return."}]}
)
BASE = LLMRequest("default", [Message("user", "Hello")], deterministic=True, purpose="intent", spender=Spender("t"))


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    opened = open_hotstore("memory://" if request.param == "memory" else request.getfixturevalue("redis_database"))
    yield opened
    await opened.aclose()


def alias(url: str, seconds: float = 60) -> dict[str, Alias]:
    return {"default": Alias((Group((Target("openai", "m", base_url=f"{url}/v1", api_key="k"),)),), cache_seconds=seconds)}


async def test_the_same_call_is_answered_without_a_model(store: HotStore) -> None:
    metrics, books = Metrics(), RecordingBooks()
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url), metrics, hotstore=store, books=books) as gateway:
        first = await gateway.complete(BASE)
        again = await gateway.complete(replace(BASE, timeout=5.0))  # how much time is left makes it no other call
        streamed = [chunk async for chunk in gateway.stream(BASE)]
        assert simulator.calls == 1
    assert (again.message, again.finish_reason, again.target) == (first.message, first.finish_reason, "openai/m")
    assert again.usage == Usage()
    assert [c.text if isinstance(c, TextDelta) else c for c in streamed] == ["It is a return.", again]
    assert [(line.outcome, line.cached_reply, line.usage.llm_calls) for line in books.lines] == [
        ("ok", n > 0, int(n == 0)) for n in range(3)
    ]
    assert [line.streamed for line in books.lines] == [False, False, True]
    page = metrics.render().decode()
    assert 'loadsplit_llm_cached_replies_total{alias="default",outcome="hit"} 2.0' in page
    assert 'loadsplit_llm_cached_replies_total{alias="default",outcome="miss"} 1.0' in page


async def test_tool_calls_are_kept_too(store: HotStore) -> None:
    request = replace(BASE, messages=[Message("user", "my order")], tools=[TOOL])
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url), hotstore=store) as gateway:
        await gateway.complete(request)
        again = await gateway.complete(request)
        assert simulator.calls == 1
    assert again.message.tool_calls == (ToolCall("c1", "get_order", '{"id": "A1"}'),)
    assert again.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "other",
    [
        {"spender": Spender("another")},
        {"messages": [Message("user", "Hello!")]},
        {"messages": [Message("system", "Hello"), Message("user", "Hello")]},
        {"tools": [TOOL]},
        {"tool_choice": "none"},
        {"max_tokens": 7},
    ],
)
async def test_another_tenant_or_another_call_asks_anew(store: HotStore, other: dict[str, Any]) -> None:
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url), hotstore=store) as gateway:
        await gateway.complete(BASE)
        await gateway.complete(replace(BASE, **other))
        assert simulator.calls == 2


@pytest.mark.parametrize("never", [{"deterministic": False}, {"spender": None}])
async def test_other_calls_are_never_kept(store: HotStore, never: dict[str, Any]) -> None:
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url), hotstore=store) as gateway:
        for _ in range(2):
            await gateway.complete(replace(BASE, **never))
        assert simulator.calls == 2


async def test_nothing_is_kept_without_leave_or_beyond_its_time_or_its_size(store: HotStore) -> None:
    large = PROFILE.model_copy(update={"rules": Profile.model_validate({"rules": [{"text": "x" * MOST_BYTES}]}).rules})
    for profile, seconds in ((PROFILE, 0.0), (large, 60.0)):
        async with running(profile) as (url, simulator), open_gateway(alias(url, seconds), hotstore=store) as gateway:
            for _ in range(2):
                await gateway.complete(replace(BASE, spender=Spender(f"t{seconds}")))
            assert simulator.calls == 2
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url, 0.2), hotstore=store) as gateway:
        await gateway.complete(BASE)

        async def asked_again() -> bool:
            await gateway.complete(BASE)
            return simulator.calls == 2

        await wait_until(asked_again, "the reply has expired", 5)


async def test_a_store_that_is_away_only_means_that_a_model_is_asked() -> None:
    away = open_hotstore("redis://127.0.0.1:9/0")
    async with running(PROFILE) as (url, simulator), open_gateway(alias(url), hotstore=away) as gateway:
        for _ in range(2):
            assert isinstance(await gateway.complete(BASE), Completed)
        assert simulator.calls == 2
    await away.aclose()
