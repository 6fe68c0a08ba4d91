"""What the gateway writes into the books: a line for each call at a target, with what was told of it, or an estimate that says so."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from heavy.llm.account import OnAccount, of_skill
from heavy.llm.gateway import open_gateway
from heavy.llm.legs import CallRecord
from heavy.llm.prices import cost
from heavy.llm.types import LLMCallFailed, LLMRequest, Message, Prices, Spender, Target
from loadtests.simulators.llm import running
from tests.providers.calls import ask, quick

PRICES = Prices(1, 0.1, 4, 1.25)
WHO = Spender("acme", "shop", None, "s1", "t_1")
STORY = "once upon a time there was a kettle that never boiled " * 4


class Kept:
    """Books that keep lines in a list."""

    def __init__(self) -> None:
        self.lines: list[CallRecord] = []

    def record(self, call: CallRecord) -> None:
        self.lines.append(call)


def targets(url: str, *names: str) -> dict[str, tuple[Target, ...]]:
    every = [Target(n, f"m-{n}", base_url=f"{url}/v1", api_key="k", prices=PRICES) for n in names]  # type: ignore[arg-type]
    return {"default": tuple(every)}


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_call_is_a_line_with_whose_it_was(name: str, streaming: bool) -> None:
    books = Kept()
    async with running(quick(rules=[{"text": "one two"}])) as (url, _), open_gateway(targets(url, name), books=books) as gateway:
        account = of_skill(OnAccount(gateway, WHO), "refund")
        request = ask(purpose="skill")
        if streaming:
            done = [chunk async for chunk in account.stream(request)][-1]
        else:
            done = await account.complete(request)
    (line,) = books.lines
    assert line.spender == Spender("acme", "shop", "refund", "s1", "t_1", None, "skill")
    assert (line.alias, line.target, line.model, line.outcome) == ("default", f"{name}/m-{name}", f"m-{name}", "ok")
    assert line.usage == done.usage  # type: ignore[union-attr]
    assert line.usage.input_tokens > 0
    assert line.usage.cost_usd == cost(line.usage, PRICES) > 0
    assert (line.streamed, line.estimated) == (streaming, False)
    assert line.first_token_seconds is not None
    assert 0 < line.first_token_seconds <= line.seconds


async def test_each_try_and_each_target_is_a_line_of_its_own() -> None:
    books = Kept()
    faults = [{"kind": "500", "when": {"provider": "openai"}, "every": 1}]
    async with running(quick(faults=faults)) as (url, _), open_gateway(targets(url, "openai", "anthropic"), books=books) as gateway:
        await gateway.complete(ask())
    assert [(line.target, line.outcome, line.usage.input_tokens > 0) for line in books.lines] == [
        ("openai/m-openai", "server_error", False),
        ("anthropic/m-anthropic", "ok", True),
    ]
    assert len({line.call_id for line in books.lines}) == 2


@pytest.mark.parametrize(("name", "estimated"), [("openai", True), ("anthropic", False)])
async def test_a_stream_that_breaks_counts_what_was_told_or_is_estimated(name: str, estimated: bool) -> None:
    books = Kept()
    profile = quick(rules=[{"text": STORY}], faults=[{"kind": "eof", "every": 1, "after_tokens": 8}])
    async with running(profile) as (url, _), open_gateway(targets(url, name), books=books) as gateway:
        with pytest.raises(LLMCallFailed) as caught:
            async for _ in gateway.stream(ask()):
                pass
    (line,) = books.lines
    assert (line.outcome, line.estimated) == ("incomplete", estimated)
    assert caught.value.partial
    assert line.usage.input_tokens > 0
    assert line.usage.cost_usd > 0
    if estimated:
        assert line.usage.output_tokens >= len(caught.value.partial) // 4
    else:
        assert line.usage.output_tokens == 1  # what the beginning of the stream told


@pytest.mark.parametrize(("name", "estimated"), [("openai", True), ("anthropic", False)])
async def test_who_leaves_in_the_middle_has_spent_something(name: str, estimated: bool) -> None:
    books = Kept()
    async with (
        running(quick(rules=[{"text": STORY, "token_ms": 50}])) as (url, _),
        open_gateway(targets(url, name), books=books) as gateway,
        aclosing(gateway.stream(LLMRequest("default", [Message("user", "Hello " * 40)]))) as chunks,
    ):
        await anext(chunks)
    (line,) = books.lines
    assert (line.outcome, line.estimated, line.spender) == ("cancelled", estimated, Spender())
    assert line.usage.input_tokens > 0
    assert line.usage.cost_usd > 0
