"""The legs of a call: who comes next, what is written down, what is set aside, and where it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from common.contracts.query import Usage
from common.errors import BudgetExceeded, DeadlineExceeded, DependencyUnavailable
from common.telemetry.metrics import Metrics
from heavy.llm.aliases import Alias, Group
from heavy.llm.gateway import LLMGateway, open_gateway
from heavy.llm.health import FIRST_SECONDS
from heavy.llm.legs import Ask
from heavy.llm.types import LLMCallFailed, LLMRequest, Message, Prices, Spender, Target
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile
from tests.support.llm_books import RecordingBooks, RecordingPurse

A = Target("openai", "a", prices=Prices(100, 10, 1000))
B = Target("anthropic", "b", prices=Prices(1, 1, 1))
SPENDER = Spender("t", "shop", "returns", "s1", "t1", purpose="skill")


def gateway(alias: Alias, **parts: Any) -> LLMGateway:
    return LLMGateway({"default": alias}, {}, **parts)


def failure(kind: str = "server_error", **members: Any) -> LLMCallFailed:
    return LLMCallFailed("it failed", kind=kind, **members)


async def walk(at: LLMGateway, *ends: LLMCallFailed | Usage, **ask: Any) -> list[str]:
    """Goes through the legs, each ending as given; the models that were asked."""
    asked: list[str] = []
    wanted = iter(ends)
    async with aclosing(at.legs(Ask(**{"alias": "default", "spender": SPENDER, "tokens": 30, "most_output": 70} | ask))) as legs:
        async for leg in legs:
            asked.append(leg.target.model)
            end = next(wanted)
            if isinstance(end, Usage):
                leg.done(end)
            else:
                leg.failed(end)
    return asked


async def test_every_leg_is_a_line_in_the_books() -> None:
    books = RecordingBooks()
    at = gateway(Alias.of(A, B), books=books)
    assert await walk(at, failure(), Usage(1, 40, 20, 5), streamed=True) == ["a", "b"]
    first, second = books.lines
    assert (first.target, first.model, first.outcome, first.usage.input_tokens) == ("openai/a", "a", "server_error", 0)
    assert (second.target, second.outcome, second.usage) == ("anthropic/b", "ok", Usage(1, 40, 20, 5, second.usage.cost_usd))
    assert second.usage.cost_usd == pytest.approx(45e-6)
    assert (first.spender, first.alias, first.streamed, first.estimated, first.cached_reply) == (SPENDER, "default", True, False, False)
    assert first.call_id != second.call_id
    assert (first.began, first.seconds >= 0, first.first_token_seconds) == (pytest.approx(second.began, abs=5), True, None)


async def test_what_a_failed_call_has_told_of_its_tokens_is_counted_and_priced() -> None:
    books = RecordingBooks()
    with pytest.raises(LLMCallFailed):
        await walk(gateway(Alias.of(A), books=books), failure("invalid_request", usage=Usage(1, 1000, 0, 1)))
    assert books.lines[0].usage.cost_usd == pytest.approx(0.101)
    assert not books.lines[0].estimated


async def test_an_answer_that_breaks_off_without_counts_is_estimated_and_says_so() -> None:
    books = RecordingBooks()
    at = gateway(Alias.of(A, B), books=books)
    with pytest.raises(LLMCallFailed):
        await walk(at, failure("reset", partial="eight letters here", usage=Usage(llm_calls=1)))
    line = books.lines[0]
    assert (line.outcome, line.estimated, line.usage.input_tokens, line.usage.output_tokens) == ("reset", True, 30, 5)
    assert len(books.lines) == 1  # final: words were seen


async def test_a_caller_that_goes_is_cancelled_and_holds_nothing() -> None:
    books, purse = RecordingBooks(), RecordingPurse(1000)
    at = gateway(Alias.of(A), books=books, purse=purse)
    legs = at.legs(Ask("default", SPENDER, 30, 70))
    leg = await anext(legs)
    leg.first_token()
    await legs.aclose()
    line = books.lines[0]
    assert (line.outcome, line.usage, line.first_token_seconds is not None) == ("cancelled", Usage(llm_calls=1), True)
    assert (purse.left, purse.settled) == (1000, [None])
    leg.done(Usage(1, 5, 0, 5))  # too late
    assert len(books.lines) == 1


async def test_each_leg_sets_aside_what_it_may_cost_and_settles_what_it_did() -> None:
    purse = RecordingPurse(150)
    at = gateway(Alias.of(A, B), purse=purse)
    await walk(at, failure("connect"), Usage(1, 40, 0, 20))
    assert purse.asked == [(SPENDER, 100, pytest.approx(0.073)), (SPENDER, 100, pytest.approx(100e-6))]
    assert [s.output_tokens if s else None for s in purse.settled] == [None, 20]
    assert purse.left == 90
    with pytest.raises(BudgetExceeded):
        await walk(at, Usage())
    assert at._standings.of(A).slots.used == 0  # the refused call has left its place
    assert at._standings.of(A).outstanding == 0


async def test_without_a_limit_on_the_answer_the_targets_own_is_set_aside() -> None:
    purse = RecordingPurse(10_000)
    await walk(gateway(Alias.of(Target("openai", "a", max_tokens=500)), purse=purse), Usage(), most_output=0)
    assert purse.asked[0][1] == 530


async def test_what_is_final_ends_it() -> None:
    for error in (failure("invalid_request"), failure("reset", partial="some words")):
        with pytest.raises(LLMCallFailed) as caught:
            await walk(gateway(Alias.of(A, B)), error)
        assert caught.value is error


async def test_a_relay_that_has_passed_the_first_byte_on_ends_there() -> None:
    legs = gateway(Alias.of(A, B)).legs(Ask("default"))
    leg = await anext(legs)
    leg.first_token()
    leg.failed(failure("reset"))
    with pytest.raises(LLMCallFailed):
        await anext(legs)


async def test_only_targets_of_the_protocol_of_a_relayed_body() -> None:
    at = gateway(Alias.of(A, B))
    assert await walk(at, Usage(), provider="anthropic") == ["b"]
    with pytest.raises(DependencyUnavailable, match="anthropic"):
        await walk(gateway(Alias.of(A)), Usage(), provider="anthropic")


async def test_the_retry_policy_of_the_alias() -> None:
    alias = Alias((Group((A, B)),), attempts=2, backoff=0.001)
    assert await walk(gateway(alias), failure(), failure(), failure(), Usage()) == ["a", "b", "a", "b"]
    with pytest.raises(LLMCallFailed):
        await walk(gateway(alias), *[failure() for _ in range(4)])
    assert await walk(gateway(alias), failure("auth"), failure(), Usage()) == ["a", "b", "b"]  # wrong credentials don't mend


async def test_retries_are_at_most_a_fifth_of_the_calls_and_a_few() -> None:
    metrics = Metrics()
    away = Target("openai", "a", eject_after=0)
    at = gateway(Alias.of(away, B), metrics=metrics)
    made = 0
    for _ in range(200):
        try:
            made += len(await walk(at, failure("connect"), Usage())) - 1
        except LLMCallFailed:
            continue
    assert 40 <= made <= 52
    page = metrics.render().decode()
    assert f'loadsplit_llm_retries_total{{alias="default",outcome="made"}} {float(made)}' in page
    assert f'loadsplit_llm_retries_total{{alias="default",outcome="refused"}} {float(200 - made)}' in page


async def test_a_target_that_keeps_failing_is_left_alone_then_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    at = gateway(Alias.of(A, B), metrics=metrics)
    for _ in range(5):
        assert await walk(at, failure("timeout"), Usage()) == ["a", "b"]
    assert await walk(at, Usage()) == ["b"]
    assert 'loadsplit_llm_target_out{target="openai/a"} 1.0' in metrics.render().decode()
    health = at._standings.of(A).health
    health.back_at -= FIRST_SECONDS + 1  # as if the time had passed
    probe = at.legs(Ask("default"))
    leg = await anext(probe)
    assert leg.target == A
    assert await walk(at, Usage()) == ["b"]  # while it is tried
    leg.done(Usage())
    await probe.aclose()
    assert await walk(at, Usage()) == ["a"]
    assert 'loadsplit_llm_target_out{target="openai/a"} 0.0' in metrics.render().decode()


async def test_a_wrong_request_says_nothing_about_the_target() -> None:
    at = gateway(Alias.of(A, B))
    for _ in range(30):
        with pytest.raises(LLMCallFailed):
            await walk(at, failure("invalid_request"))
    assert await walk(at, Usage()) == ["a"]


async def test_a_callers_short_time_says_nothing_about_the_target() -> None:
    async with running(Profile(first_token_ms=3000, token_ms=0)) as (url, _):
        slow = replace(A, base_url=f"{url}/v1", eject_after=1)
        async with open_gateway({"default": Alias.of(slow)}) as at:
            for _ in range(2):
                with pytest.raises(DeadlineExceeded):
                    await at.complete(LLMRequest("default", [Message("user", "Hello")], timeout=0.6))
                assert not at._standings.of(slow).health.out
        impatient = replace(slow, total_timeout=0.2)
        async with open_gateway({"default": Alias.of(impatient)}) as at:
            with pytest.raises(LLMCallFailed):
                await at.complete(LLMRequest("default", [Message("user", "Hello")], timeout=10.0))
            assert at._standings.of(impatient).health.out


async def test_a_balanced_alias_gives_more_to_the_quicker_target() -> None:
    rules = [{"when": {"model": "slow"}, "text": "ok", "first_token_ms": 150}, {"text": "ok"}]
    async with running(Profile.model_validate({"first_token_ms": 5, "token_ms": 0, "rules": rules})) as (url, simulator):
        targets = tuple(Target("openai", model, base_url=f"{url}/v1", api_key="k") for model in ("slow", "quick"))
        async with open_gateway({"default": Alias((Group(targets, "balanced"),))}) as at:

            async def caller() -> None:
                for _ in range(15):
                    await at.complete(LLMRequest("default", [Message("user", "Hello")]))

            await asyncio.gather(*(caller() for _ in range(6)))
    assert simulator.by_model["slow"] + simulator.by_model["quick"] == 90
    assert simulator.by_model["quick"] > 1.5 * simulator.by_model["slow"] > 0


async def test_new_aliases_hold_from_the_next_call_on_and_what_is_known_is_kept() -> None:
    at = gateway(Alias.of(A, B))
    for _ in range(5):
        await walk(at, failure(), Usage())
    legs = at.legs(Ask("default", SPENDER))
    under_way = await anext(legs)
    at.use({"default": Alias.of(A, B), "new": Alias.of(B)})
    under_way.done(Usage())
    await legs.aclose()
    assert await walk(at, Usage()) == ["b"]  # a is still out
    assert await walk(at, Usage(), alias="new") == ["b"]
    assert at.catalogue() == {"default": (A, B), "new": (B,)}
