"""An answer that broke off is gone on with at another target, where the alias allows it and only words were said."""

from __future__ import annotations

from typing import Any

import pytest

from heavy.llm.aliases import Alias, Group
from heavy.llm.continuing import takes_prefill
from heavy.llm.gateway import LLMGateway, open_gateway
from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Message, Target, TextDelta
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile
from tests.support.llm_books import RecordingBooks
from tests.support.waiting import wait_until

SECOND = "four five six"
PREFILLED = "claude-sonnet-4-5"


def profile(after: int = 3, faults: list[dict[str, Any]] | None = None, rest_ms: float = 0, **bad: Any) -> Profile:
    """`bad` breaks off after so many words; whoever is asked to go on says the rest."""
    rules = [
        {"when": {"model": "bad"}, "text": "one two three four", "token_ms": 5, **bad},
        {"when": {"user": "broke off in the middle"}, "text": SECOND, "token_ms": rest_ms},
        {"when": {"model": PREFILLED}, "text": f" {SECOND}"},
        {"text": "a whole answer"},
    ]
    breaks = {"kind": "reset", "when": {"model": "bad"}, "every": 1, "after_tokens": after}
    return Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "rules": rules, "faults": [breaks, *(faults or [])]})


def target(url: str, provider: str, model: str) -> Target:
    return Target(provider, model, base_url=f"{url}/v1", api_key="k")  # type: ignore[arg-type]


async def answer(gateway: LLMGateway, said: list[str] | None = None) -> Completed:
    """The end of a streamed answer; its text is what the deltas were."""
    deltas = [] if said is None else said
    async for chunk in gateway.stream(LLMRequest("default", [Message("system", "Be brief."), Message("user", "Count")])):
        if isinstance(chunk, TextDelta):
            deltas.append(chunk.text)
        else:
            assert chunk.message.content == "".join(deltas)
            return chunk
    raise AssertionError("no end")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize(("second", "model"), [("openai", "good"), ("anthropic", "good"), ("anthropic", PREFILLED)])
async def test_another_target_goes_on(provider: str, second: str, model: str) -> None:
    books = RecordingBooks()
    async with running(profile()) as (url, simulator):
        alias = Alias((Group((target(url, provider, "bad"), target(url, second, model))),), continues=True)
        async with open_gateway({"default": alias}, books=books) as gateway:
            said: list[str] = []
            done = await answer(gateway, said)
        asked = simulator.last[-1]
    assert "".join(said) in (f"one two three{SECOND}", f"one two three {SECOND}")
    assert (done.target, done.usage.llm_calls) == (f"{second}/{model}", 2)
    assert asked["messages"] == (2 + 1 if model == PREFILLED else 2 + 2) - (second == "anthropic")  # there the system prompt is no message
    first, last = books.lines
    assert (first.outcome, last.outcome) == ("reset", "ok")
    assert done.usage.input_tokens == last.usage.input_tokens + (first.usage.input_tokens if not first.estimated else 0)


async def test_space_at_the_end_of_what_was_said_is_not_said_twice() -> None:
    async with running(profile(text="one two three \n\n four")) as (url, _):
        alias = Alias((Group((target(url, "openai", "bad"), target(url, "anthropic", PREFILLED))),), continues=True)
        async with open_gateway({"default": alias}) as gateway:
            done = await answer(gateway)
    assert "  " not in done.message.content
    assert done.message.content.startswith("one two three")
    assert done.message.content.endswith(SECOND)


async def test_a_single_target_goes_on_by_itself() -> None:
    async with running(profile()) as (url, simulator):
        alias = Alias((Group((target(url, "openai", "bad"),)),), continues=True)
        async with open_gateway({"default": alias}) as gateway:
            with pytest.raises(LLMCallFailed) as caught:
                await answer(gateway)  # the second half breaks off, too
    assert simulator.calls == 2
    assert caught.value.partial == "one two three" * 2
    assert caught.value.usage is not None
    assert caught.value.usage.llm_calls == 2


async def test_when_nobody_can_go_on_the_failure_has_everything_that_was_said() -> None:
    faults = [{"kind": 500, "when": {"model": "good"}, "every": 1}]
    async with running(profile(faults=faults)) as (url, simulator):
        alias = Alias((Group((target(url, "openai", "bad"), target(url, "openai", "good"))),), continues=True)
        async with open_gateway({"default": alias}) as gateway:
            said: list[str] = []
            with pytest.raises(LLMCallFailed) as caught:
                await answer(gateway, said)
    assert (caught.value.kind, caught.value.partial) == ("server_error", "".join(said))
    assert caught.value.after_first_token
    assert simulator.by_model == {"bad": 1, "good": 1}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_where_a_tool_call_had_begun_nobody_goes_on(provider: str) -> None:
    calls = [{"name": "get_order", "arguments": {"order_id": "A1001"}}]
    async with running(profile(after=5, tool_calls=calls)) as (url, simulator):
        alias = Alias((Group((target(url, provider, "bad"), target(url, provider, "good"))),), continues=True)
        async with open_gateway({"default": alias}) as gateway:
            with pytest.raises(LLMCallFailed) as caught:
                await answer(gateway)
    assert caught.value.calls_begun
    assert caught.value.partial == "one two three four"
    assert simulator.calls == 1


async def test_without_leave_a_failure_is_final() -> None:
    async with running(profile()) as (url, simulator):
        alias = Alias.of(target(url, "openai", "bad"), target(url, "openai", "good"))
        async with open_gateway({"default": alias}) as gateway:
            with pytest.raises(LLMCallFailed) as caught:
                await answer(gateway)
    assert (caught.value.partial, simulator.calls) == ("one two three", 1)


async def test_who_stops_reading_the_second_half_closes_its_connection() -> None:
    books = RecordingBooks()
    async with running(profile(rest_ms=200)) as (url, simulator):
        alias = Alias((Group((target(url, "openai", "bad"), target(url, "openai", "good"))),), continues=True)
        async with open_gateway({"default": alias}, books=books) as gateway:
            stream = gateway.stream(LLMRequest("default", [Message("user", "Count")]))
            async for chunk in stream:
                if isinstance(chunk, TextDelta) and "four" in chunk.text:
                    break
            await stream.aclose()
            await wait_until(lambda: simulator.open == 0, "the connection is closed", 2)
    assert [(line.outcome, line.estimated) for line in books.lines] == [("reset", True), ("cancelled", True)]


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-5-haiku-latest", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-opus-4-1", True),
        ("claude-sonnet-4-20250514", True),
        ("us.anthropic.claude-haiku-4-5", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-8", False),
        ("claude-opus-5", False),
        ("another", False),
    ],
)
def test_which_models_take_the_beginning_of_their_answer(model: str, takes: bool) -> None:
    assert takes_prefill(Target("anthropic", model)) is takes
    assert not takes_prefill(Target("openai", model))
