"""Requests and tokens a minute: shared by replicas, put right after the call, and held by each process where the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from common.contracts.query import Usage
from common.errors import DeadlineExceeded, Overloaded, RateLimited
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from heavy.llm.aliases import Alias
from heavy.llm.gateway import LLMGateway
from heavy.llm.leg import GatewayLeg
from heavy.llm.legs import Ask
from heavy.llm.types import LLMCallFailed, Target
from tests.support.waiting import wait_until


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    opened = open_hotstore("memory://" if request.param == "memory" else request.getfixturevalue("redis_database"))
    yield opened
    await opened.aclose()


def target(model: str = "m", **members: int) -> Target:
    return Target("openai", model, api_key="k", **members)  # type: ignore[arg-type]


def gateway(*targets: Target, store: HotStore | None = None) -> LLMGateway:
    return LLMGateway({"default": Alias.of(*targets)}, {}, hotstore=store)


class Begun:
    """Calls that stay under way: as long as their generators live."""

    def __init__(self, at: LLMGateway) -> None:
        self._at = at
        self._legs: list[AsyncGenerator[GatewayLeg, None]] = []

    async def leg(self, timeout: float | None = None) -> GatewayLeg:
        """Begins another one."""
        self._legs.append(self._at.legs(Ask("default", tokens=10, most_output=10, timeout=timeout)))
        return await anext(self._legs[-1])


async def walk(at: LLMGateway, used: Usage | None = None, **ask: float | None) -> str:
    async with aclosing(at.legs(Ask("default", **{"tokens": 10, "most_output": 10} | ask))) as legs:  # type: ignore[arg-type]
        async for leg in legs:
            leg.done(used or Usage(llm_calls=1, input_tokens=10, output_tokens=10))
            return leg.target.model
    raise AssertionError("no leg")


async def test_replicas_share_the_requests_of_a_minute(store: HotStore) -> None:
    first, second = (gateway(target(rpm=4), store=store) for _ in range(2))
    for at in (first, second, first, second):
        await walk(at)
    for at in (first, second):
        with pytest.raises(RateLimited) as caught:
            await walk(at, timeout=5.0)
        assert caught.value.retry_after is not None
        assert 10 < caught.value.retry_after <= 15
        await at.aclose()


async def test_what_a_call_did_not_use_of_its_estimate_is_there_again(store: HotStore) -> None:
    at = gateway(target(tpm=1000), store=store)
    for _ in range(5):  # each sets 900 aside and uses 20
        await walk(at, tokens=400, most_output=500)
        await at.aclose()
    with pytest.raises(RateLimited):
        await walk(at, tokens=1000, timeout=2.0)


async def test_what_a_call_used_beyond_its_estimate_is_owed(store: HotStore) -> None:
    at = gateway(target(tpm=1000), store=store)
    await walk(at, Usage(llm_calls=1, input_tokens=3000))
    await at.aclose()
    with pytest.raises(RateLimited) as caught:
        await walk(at)
    assert caught.value.retry_after is not None
    assert 100 < caught.value.retry_after < 130


async def test_a_full_target_is_passed_over(store: HotStore) -> None:
    at = gateway(target("first", rpm=1), target("second"), store=store)
    assert [await walk(at) for _ in range(3)] == ["first", "second", "second"]
    await at.aclose()


async def test_a_call_waits_for_its_turn_when_its_deadline_allows(store: HotStore) -> None:
    at = gateway(target(rpm=120), store=store)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(walk(at) for _ in range(120)))
    began = loop.time()
    await asyncio.gather(*(walk(at, timeout=20.0) for _ in range(2)))
    assert loop.time() - began >= 0.8  # one every half second, in turn
    with pytest.raises(RateLimited):
        await walk(at, timeout=0.7)
    await at.aclose()


async def test_a_call_that_gives_up_waiting_gives_its_turn_back(store: HotStore) -> None:
    at = gateway(target(rpm=60), store=store)
    await asyncio.gather(*(walk(at) for _ in range(60)))
    waiting = [asyncio.create_task(walk(at)) for _ in range(5)]
    await wait_until(lambda: at._standings.of(at.targets("default")[0]).slots.used == 5, "they wait")
    await asyncio.sleep(0.05)  # past the store's reply
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await at.aclose()
    await walk(at, timeout=2.0)


async def test_without_a_store_the_process_holds_the_limits_by_itself() -> None:
    at = gateway(target(rpm=2))
    await walk(at)
    await walk(at)
    with pytest.raises(RateLimited):
        await walk(at)
    await at.aclose()


async def test_while_the_store_is_away_the_process_holds_the_limits_by_itself() -> None:
    away = open_hotstore("redis://127.0.0.1:9/0")
    at = gateway(target(rpm=2), store=away)
    await walk(at)
    await walk(at)
    with pytest.raises(RateLimited):
        await walk(at)
    await at.aclose()
    await away.aclose()


async def test_so_many_calls_at_once_and_no_more() -> None:
    at = gateway(target(max_concurrency=2))
    calls = Begun(at)
    first, second = await calls.leg(), await calls.leg()
    with pytest.raises(Overloaded) as caught:
        await calls.leg(timeout=0.6)
    assert caught.value.retry_after is not None
    waiting = asyncio.create_task(calls.leg())
    await wait_until(lambda: bool(at._standings.of(first.target).slots._queue), "it waits")
    first.done(Usage(llm_calls=1))
    third = await waiting
    for leg in (second, third):
        leg.left()
    assert at._standings.of(first.target).slots.used == 0
    assert at._standings.of(first.target).outstanding == 0


async def test_a_pause_that_the_provider_wants_is_kept() -> None:
    at = gateway(target("first"), target("second"))
    legs = at.legs(Ask("default"))
    (await anext(legs)).failed(LLMCallFailed("slow down", kind="rate_limited", retry_after=30))
    (await anext(legs)).done(Usage(llm_calls=1))
    await legs.aclose()
    assert await walk(at) == "second"
    calls = Begun(at)
    leg = await calls.leg()
    leg.told({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "40s"})
    leg.done(Usage(llm_calls=1))
    with pytest.raises(RateLimited) as caught:
        await walk(at)
    assert caught.value.retry_after == pytest.approx(30, abs=1)


async def test_too_little_time_begins_nothing() -> None:
    with pytest.raises(DeadlineExceeded):
        await Begun(gateway(target())).leg(timeout=0.3)


async def test_targets_of_different_keys_do_not_share_a_limit() -> None:
    shared = MemoryHotStore()
    one, two = (gateway(Target("openai", "m", api_key=key, rpm=1), store=shared) for key in "kl")
    await walk(one)
    await walk(two)
    for at in (one, two):
        with pytest.raises(RateLimited):
            await walk(at)
