"""Both providers against every fault of the simulator: each has its kind, before the first token and after it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest

from heavy.llm.types import Provider, TextDelta
from loadtests.simulators.llm import Simulator, running
from tests.providers.calls import ORDER, ask, call, quick, target
from tests.support.waiting import wait_until

TEXT = {"text": "one two three four five six"}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("400", "invalid_request"),
        ("401", "auth"),
        ("404", "not_found"),
        ("429", "rate_limited"),
        ("500", "server_error"),
        ("503", "overloaded"),
        ("529", "overloaded"),
        ("spend_limit", "spend_limit"),
    ],
)
async def test_error_statuses(name: str, provider: Provider, fault: str, kind: str, streaming: bool) -> None:
    async with running(quick(rules=[TEXT], faults=[{"kind": fault, "every": 1}])) as (url, _):
        out = await call(provider, target(name, url), ask(), streaming=streaming)
    assert out.kind == kind
    assert out.error is not None
    assert not out.error.after_first_token
    assert "simulated" not in out.error.detail  # the provider's words are for the log
    assert any("simulated" in note for note in out.error.__notes__)


async def test_retry_after_is_read(name: str, provider: Provider) -> None:
    async with running(quick(faults=[{"kind": 429, "every": 1, "retry_after": 1.5}])) as (url, _):
        out = await call(provider, target(name, url), ask())
    assert out.error is not None
    assert out.error.retry_after == 1.5


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("reset", {"reset"}),
        ("eof", {"incomplete"}),
        ("garbage", {"garbage"}),
        ("error_event", {"error_event", "overloaded"}),
        ("stall", {"timeout"}),
    ],
)
async def test_a_stream_that_breaks(name: str, provider: Provider, fault: str, kinds: set[str], after: int) -> None:
    where: dict[str, Any] = {"first_token_timeout": 0.3, "idle_timeout": 0.3} if fault == "stall" else {}
    # a pause between tokens, so that those before the fault have left before it strikes
    profile = quick(rules=[{**TEXT, "token_ms": 5}], faults=[{"kind": fault, "every": 1, "after_tokens": after}])
    async with running(profile) as (url, _):
        out = await call(provider, target(name, url, **where), ask())
    assert out.kind in kinds
    assert out.error is not None
    assert out.completed is None
    assert out.error.partial == "".join(out.deltas)
    assert out.error.partial == ("one two three" if after else "")
    assert out.error.after_first_token is bool(after)


async def test_a_clean_end_after_the_last_token_is_still_incomplete(name: str, provider: Provider) -> None:
    async with running(quick(rules=[TEXT], faults=[{"kind": "eof", "every": 1, "after_tokens": 100}])) as (url, _):
        out = await call(provider, target(name, url), ask())
    assert out.kind == "incomplete"
    assert out.error is not None
    assert out.error.partial == TEXT["text"]


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("reset", {"reset"}),
        ("eof", {"incomplete"}),
        ("garbage", {"garbage"}),
        ("error_event", {"error_event", "overloaded"}),
        ("stall", {"timeout"}),
    ],
)
async def test_a_json_call_that_breaks(name: str, provider: Provider, fault: str, kinds: set[str]) -> None:
    async with running(quick(rules=[TEXT], faults=[{"kind": fault, "every": 1}])) as (url, _):
        out = await call(provider, target(name, url, total_timeout=0.4), ask(), streaming=False)
    assert out.kind in kinds


async def test_the_time_left_bounds_the_whole_call(name: str, provider: Provider) -> None:
    async with running(quick(rules=[{**TEXT, "token_ms": 150}])) as (url, _):
        began = time.monotonic()
        out = await call(provider, target(name, url), ask(timeout=0.4))
    assert out.kind == "timeout"
    assert out.deltas
    assert time.monotonic() - began < 1.5


async def test_a_socket_held_open_after_the_end_does_not_hold_us(name: str, provider: Provider) -> None:
    async with running(quick(rules=[TEXT], faults=[{"kind": "held_open", "every": 1, "seconds": 30}])) as (url, simulator):
        began = time.monotonic()
        out = await call(provider, target(name, url), ask())
        assert out.done.message.content == TEXT["text"]
        assert time.monotonic() - began < 2
        await wait_until(lambda: simulator.open == 0, "the held connection is closed", 2)


async def test_nobody_listens(name: str, provider: Provider) -> None:
    async with running(quick()) as (url, _):
        pass
    out = await call(provider, target(name, url), ask())
    assert out.kind == "connect"


async def _closed_within_a_second(simulator: Simulator) -> None:
    began = time.monotonic()
    await wait_until(lambda: simulator.open == 0, "the connection upstream is closed", 3)
    assert time.monotonic() - began < 1


async def test_a_consumer_that_stops_closes_the_connection(name: str, provider: Provider) -> None:
    async with running(quick(rules=[{"text": "word " * 500, "token_ms": 20}])) as (url, simulator):
        async with aclosing(provider.stream(target(name, url), ask(), streaming=True)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                assert isinstance(chunk, TextDelta)
                assert simulator.open == 1
                break
        await _closed_within_a_second(simulator)


@pytest.mark.parametrize("first_token_ms", [30_000, 0])
async def test_a_cancelled_task_closes_the_connection(name: str, provider: Provider, first_token_ms: int) -> None:
    profile = quick(first_token_ms=first_token_ms, rules=[{"text": "word " * 500, "token_ms": 20}])
    async with running(profile) as (url, simulator):
        task = asyncio.create_task(call(provider, target(name, url), ask(tools=(ORDER,))))
        await wait_until(lambda: simulator.open == 1, "the call is under way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _closed_within_a_second(simulator)
