"""The gateway: fail-over before the first token, none after it, deadlines, retries, metrics.

Two targets are two models of one simulator.
"""

from __future__ import annotations

import logging
import time
from contextlib import aclosing
from typing import Any

import pytest

from common.errors import DeadlineExceeded, DependencyUnavailable
from common.telemetry.metrics import Metrics
from heavy.llm.gateway import open_gateway
from heavy.llm.targets import default_targets
from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Message, Prices, Target, TextDelta
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile
from tests.support.waiting import wait_until

ANSWERS = [{"when": {"model": "good"}, "text": "from the good one"}, {"when": {"model": "bad"}, "text": "bad one two three", "token_ms": 5}]


def profile(**members: Any) -> Profile:
    return Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "rules": ANSWERS, **members})


def target(url: str, model: str, **members: Any) -> Target:
    return Target("openai", model, base_url=f"{url}/v1", api_key="k", **members)


def ask(model: str = "default", **members: Any) -> LLMRequest:
    return LLMRequest(model, [Message("user", "Hello")], **members)


def bad(kind: str, **members: Any) -> dict[str, Any]:
    return {"kind": kind, "when": {"model": "bad"}, **({"every": 1} if "every" not in members else {}), **members}


@pytest.mark.parametrize(
    "kind", ["401", "404", "429", "500", "503", "529", "spend_limit", "reset", "eof", "garbage", "error_event", "stall"]
)
async def test_before_the_first_token_the_next_target_takes_over(kind: str) -> None:
    async with running(profile(faults=[bad(kind)])) as (url, simulator):
        aliases = {"default": (target(url, "bad", first_token_timeout=0.3), target(url, "good"))}
        async with open_gateway(aliases) as gateway:
            completed = await _last(gateway, ask())
        assert completed.message.content == "from the good one"
        assert completed.target == "openai/good"
        assert simulator.by_model == {"bad": 1, "good": 1}  # with another target at hand the first is not tried twice


async def test_a_target_that_cannot_be_reached_is_passed_over() -> None:
    async with running(profile()) as (url, _), running(profile()) as (gone, _):
        pass
    async with running(profile()) as (url, _), open_gateway({"default": (target(gone, "bad"), target(url, "good"))}) as gateway:
        assert (await gateway.complete(ask())).target == "openai/good"


async def test_a_wrong_request_is_not_tried_elsewhere() -> None:
    async with running(profile(faults=[bad("400")])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"), target(url, "good"))}) as gateway:
            with pytest.raises(LLMCallFailed) as caught:
                await gateway.complete(ask())
        assert caught.value.kind == "invalid_request"
        assert simulator.calls == 1


async def test_after_the_first_token_a_failure_is_final() -> None:
    async with running(profile(faults=[bad("reset", after_tokens=2)])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"), target(url, "good"))}) as gateway:
            deltas: list[str] = []
            with pytest.raises(LLMCallFailed) as caught:
                await _collect(gateway, ask(), deltas)
        assert caught.value.kind == "reset"
        assert caught.value.partial == "".join(deltas) == "bad one"
        assert simulator.by_model == {"bad": 1}


@pytest.mark.parametrize("kind", ["429", "529", "500", "reset", "eof"])
async def test_a_single_target_gets_one_more_try(kind: str) -> None:
    async with running(profile(faults=[bad(kind, every=2), bad(kind, every=3)])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"),)}) as gateway:
            assert (await gateway.complete(ask())).message.content == "bad one two three"  # call 1
            with pytest.raises(LLMCallFailed):
                await gateway.complete(ask())  # calls 2 and 3 fail
            assert (await gateway.complete(ask())).message.content  # call 4 fails, call 5 does not
        assert simulator.calls == 5


@pytest.mark.parametrize("kind", ["401", "spend_limit", "400"])
async def test_what_a_second_try_cannot_mend_gets_none(kind: str) -> None:
    async with running(profile(faults=[bad(kind)])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"),)}) as gateway:
            with pytest.raises(LLMCallFailed):
                await gateway.complete(ask())
        assert simulator.calls == 1


async def test_a_short_retry_after_is_waited_for_and_a_long_one_is_not() -> None:
    async with running(profile(faults=[bad("429", every=2, retry_after=0.3)])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"),)}) as gateway:
            await gateway.complete(ask())
            began = time.monotonic()
            await gateway.complete(ask())
            assert 0.3 <= time.monotonic() - began < 2
        assert simulator.calls == 3
    async with running(profile(faults=[bad("429", retry_after=30)])) as (url, simulator):
        async with open_gateway({"default": (target(url, "bad"),)}) as gateway:
            with pytest.raises(LLMCallFailed) as caught:
                await gateway.complete(ask())
        assert caught.value.retry_after == 30
        assert simulator.calls == 1


async def test_no_call_is_begun_with_hardly_any_time_left() -> None:
    async with running(profile()) as (url, simulator), open_gateway({"default": (target(url, "good"),)}) as gateway:
        with pytest.raises(DeadlineExceeded):
            await gateway.complete(ask(timeout=0.1))
        assert simulator.calls == 0


async def test_a_deadline_that_passes_during_the_call() -> None:
    async with running(profile(first_token_ms=5000)) as (url, _), open_gateway({"default": (target(url, "good"),)}) as gateway:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await gateway.complete(ask(timeout=0.7))
        assert time.monotonic() - began < 1.5


async def test_aliases() -> None:
    async with running(profile()) as (url, _):
        aliases = {"default": (target(url, "good", context_tokens=9000),), "fast": (target(url, "bad", context_tokens=5000),)}
        async with open_gateway(aliases) as gateway:
            assert (await gateway.complete(ask("fast"))).target == "openai/bad"
            assert (await gateway.complete(ask("intent"))).target == "openai/good"
            assert (await gateway.complete(ask("compaction"))).target == "openai/good"
            with pytest.raises(DependencyUnavailable, match="'slow'"):
                await gateway.complete(ask("slow"))
            assert (gateway.context_tokens("fast"), gateway.context_tokens("intent")) == (5000, 9000)


async def test_without_any_target_the_error_says_what_to_set() -> None:
    async with open_gateway(default_targets({})) as gateway:
        with pytest.raises(DependencyUnavailable, match="OPENAI_API_KEY"):
            await gateway.complete(ask())
        assert gateway.context_tokens("default") > 0


async def test_stopping_early_closes_the_connection_upstream() -> None:
    slow = profile(rules=[{"text": "word " * 400, "token_ms": 20}])
    async with running(slow) as (url, simulator), open_gateway({"default": (target(url, "good"),)}) as gateway:
        async with aclosing(gateway.stream(ask())) as chunks:
            async for _ in chunks:
                break
        await wait_until(lambda: simulator.open == 0, "the connection upstream is closed", 1)


async def test_cost_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    async with running(profile(faults=[bad("529")])) as (url, _):
        aliases = {"default": (target(url, "bad"), target(url, "good", prices=Prices(100, 10, 1000)))}
        with caplog.at_level(logging.WARNING):
            async with open_gateway(aliases, metrics) as gateway:
                completed = await _last(gateway, ask(purpose="skill"))
    assert completed.usage.cost_usd > 0
    page = metrics.render().decode()
    assert 'loadsplit_llm_calls_total{outcome="overloaded",purpose="skill",target="openai/bad"} 1.0' in page
    assert 'loadsplit_llm_calls_total{outcome="ok",purpose="skill",target="openai/good"} 1.0' in page
    assert 'loadsplit_llm_first_token_seconds_count{target="openai/good"} 1.0' in page
    assert f'kind="output",target="openai/good"}} {float(completed.usage.output_tokens)}' in page
    assert "overloaded" in caplog.text


async def test_an_unknown_price_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with running(profile()) as (url, _), open_gateway({"default": (target(url, "good"),)}) as gateway:
        with caplog.at_level(logging.WARNING):
            await gateway.complete(ask())
            await gateway.complete(ask())
    assert caplog.text.count("price of openai/good is not known") == 1


async def test_a_spent_limit_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with running(profile(faults=[bad("spend_limit")])) as (url, _):
        aliases = {"default": (target(url, "bad"), target(url, "good"))}
        async with open_gateway(aliases) as gateway:
            await gateway.complete(ask())
    assert [r.levelname for r in caplog.records if "spend_limit" in r.message] == ["ERROR"]


async def _collect(gateway: Any, request: LLMRequest, deltas: list[str]) -> None:
    async for chunk in gateway.stream(request):
        assert isinstance(chunk, TextDelta)
        deltas.append(chunk.text)


async def _last(gateway: Any, request: LLMRequest) -> Completed:
    completed = None
    async for chunk in gateway.stream(request):
        completed = chunk
    assert isinstance(completed, Completed)
    return completed
