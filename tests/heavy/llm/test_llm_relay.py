"""The relay against the simulator and against servers that send odd bytes: targets in turn, books kept, connections closed in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from common.contracts.query import Usage
from common.errors import DeadlineExceeded, DependencyUnavailable
from heavy.llm.gateway import LLMGateway
from heavy.llm.legs import Ask, Leg
from heavy.llm.passing import RELAYED
from heavy.llm.relay import Call, Refused, Relay
from heavy.llm.relayed_body import Provider, read
from heavy.llm.types import LLMCallFailed, Target
from loadtests.simulators.llm import running
from tests.providers.calls import quick
from tests.providers.raw import sending
from tests.support.waiting import wait_until

TEXT = "one two three 四 five six"
PATHS = {"openai": "/chat/completions", "anthropic": "/messages"}


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest) -> Provider:
    """The wire protocol."""
    return request.param  # type: ignore[no-any-return]


class Ledger:
    """Legs that write down how each call ended."""

    def __init__(self, *targets: Target) -> None:
        self.lines: list[tuple[str, str, Any]] = []
        self._gateway = LLMGateway({"a": targets}, {})

    def catalogue(self) -> Mapping[str, tuple[Target, ...]]:
        """The one alias."""
        return self._gateway.catalogue()

    async def legs(self, ask: Ask) -> AsyncGenerator[Leg, None]:
        """The gateway's legs, watched."""
        async with aclosing(self._gateway.legs(ask)) as legs:
            async for leg in legs:
                yield Watched(leg, self.lines)

    @property
    def kinds(self) -> list[str]:
        """How the calls ended, without their first tokens."""
        return [kind for _, kind, _ in self.lines if kind != "first_token"]


class Watched:
    """A leg that writes into a list."""

    def __init__(self, leg: Leg, lines: list[tuple[str, str, Any]]) -> None:
        self.target, self.timeout = leg.target, leg.timeout
        self._leg, self._lines = leg, lines

    def told(self, headers: Any) -> None:
        assert "content-type" in headers
        self._leg.told(headers)

    def first_token(self) -> None:
        self._leg.first_token()
        self._lines.append((self.target.model, "first_token", None))

    def done(self, usage: Usage) -> None:
        self._leg.done(usage)
        self._lines.append((self.target.model, "done", usage))

    def failed(self, error: LLMCallFailed) -> None:
        self._leg.failed(error)
        self._lines.append((self.target.model, error.kind, error.usage))

    def left(self, usage: Usage | None = None, *, estimated: bool = False) -> None:
        self._leg.left(usage, estimated=estimated)
        self._lines.append((self.target.model, "estimated" if estimated else "left", usage))


def target(provider: str, url: str, model: str = "demo", **members: Any) -> Target:
    return Target(provider, model, base_url=f"{url}/v1", api_key="k-123", **members)  # type: ignore[arg-type]


def asked(provider: Provider, *, stream: bool, timeout: float | None = None, **members: Any) -> tuple[Ask, Call]:
    """A request of a client, read by the route."""
    doc = {"model": "models/a", "max_tokens": 99, "messages": [{"role": "user", "content": "Hello"}], "stream": stream, **members}
    body = read(orjson.dumps(doc), provider)
    headers = {"anthropic-version": "2023-06-01"} if provider == "anthropic" else {}
    return Ask("a", tokens=body.tokens, timeout=timeout, provider=provider), Call(PATHS[provider], body, headers)


async def all_of(relay: Relay, ask: Ask, call: Call, kept: list[bytes] | None = None) -> bytes:
    """A whole stream; its pieces go to `kept` as they come."""
    kept = [] if kept is None else kept
    async with aclosing(relay.stream(ask, call)) as pieces:
        async for piece in pieces:
            kept.append(piece)
    return b"".join(kept)


def profile(**members: Any) -> Any:
    return quick(rules=[{"when": {"model": "good"}, "text": "from the good one"}, {"text": TEXT, "token_ms": 5}], **members)


def bad(kind: str, **members: Any) -> dict[str, Any]:
    return {"kind": kind, "every": 1, "when": {"model": "bad"}, **members}


async def test_the_request_reaches_the_target_and_its_reply_the_client(provider: Provider) -> None:
    async with running(quick(rules=[{"text": TEXT}])) as (url, simulator):
        ledger = Ledger(target(provider, url))
        async with Relay(ledger) as relay:
            answer = await relay.whole(*asked(provider, stream=False))
            streamed = await all_of(relay, *asked(provider, stream=True))
        assert [call["purpose"] for call in simulator.last] == ["relay", "relay"]
        assert [call["model"] for call in simulator.last] == ["demo", "demo"]
        stats = simulator.stats()
    assert TEXT.encode() in answer.body
    assert answer.target.model == "demo"
    assert (b"[DONE]" if provider == "openai" else b"message_stop") in streamed[-60:]
    assert b'"choices":[]' not in streamed.replace(b" ", b"")  # the usage was not asked for
    assert ledger.kinds == ["done", "done"]
    used = [usage for _, kind, usage in ledger.lines if kind == "done"]
    assert sum(u.input_tokens for u in used) == stats["input_tokens"]
    assert sum(u.output_tokens for u in used) == stats["output_tokens"]
    assert all(u.llm_calls == 1 for u in used)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["401", "404", "429", "500", "529", "spend_limit", "reset", "eof", "garbage", "error_event", "stall"])
async def test_before_the_first_byte_another_target_takes_over(provider: Provider, kind: str, stream: bool) -> None:
    async with running(profile(faults=[bad(kind)])) as (url, simulator):
        short = {"first_token_timeout" if stream else "total_timeout": 1.0} if kind == "stall" else {}
        ledger = Ledger(target(provider, url, "bad", **short), target(provider, url, "good"))
        async with Relay(ledger) as relay:
            ask, call = asked(provider, stream=stream)
            body = await all_of(relay, ask, call) if stream else (await relay.whole(ask, call)).body
        assert simulator.by_model == {"bad": 1, "good": 1}
    assert b"good" in body
    assert b"two" not in body
    assert len(ledger.kinds) == 2
    assert ledger.kinds[1] == "done"


@pytest.mark.parametrize("kind", ["reset", "eof", "garbage", "error_event", "stall"])
async def test_after_the_first_byte_a_fault_is_told_and_nothing_repeated(provider: Provider, kind: str) -> None:
    async with running(profile(faults=[bad(kind, after_tokens=2)])) as (url, simulator):
        ledger = Ledger(target(provider, url, "bad", **({"idle_timeout": 1.0} if kind == "stall" else {})), target(provider, url, "good"))
        async with Relay(ledger) as relay:
            kept: list[bytes] = []
            with pytest.raises(LLMCallFailed) as caught:
                await all_of(relay, *asked(provider, stream=True), kept)
            got = b"".join(kept)
        assert simulator.by_model == {"bad": 1}
    assert b"two" in got
    assert b"three" not in got
    assert got.endswith(b"\n\n")
    assert caught.value.partial == RELAYED
    assert next(kind for _, kind, _ in ledger.lines) == "first_token"
    assert len(ledger.kinds) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_wrong_request_is_not_tried_elsewhere_and_the_provider_says_why(provider: Provider, stream: bool) -> None:
    async with running(profile(faults=[bad("400")])) as (url, simulator):
        ledger = Ledger(target(provider, url, "bad"), target(provider, url, "good"))
        async with Relay(ledger) as relay:
            ask, call = asked(provider, stream=stream)
            with pytest.raises(Refused) as caught:
                await (all_of(relay, ask, call) if stream else relay.whole(ask, call))
        assert simulator.calls == 1
    assert caught.value.told_status == 400
    assert b"simulated: the request is refused" in caught.value.told_body


async def test_a_key_that_a_refusal_quotes_is_not_passed_on() -> None:
    async with (
        sending([b'{"error":{"message":"k-123 may not"}}'], status=400, content_type="application/json") as url,
        Relay(Ledger(target("openai", url))) as relay,
    ):
        with pytest.raises(Refused) as caught:
            await relay.whole(*asked("openai", stream=False))
    assert caught.value.told_body == b'{"error":{"message":"*** may not"}}'


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reader_that_leaves_closes_the_connection_upstream(provider: Provider, stream: bool) -> None:
    slow = quick(rules=[{"text": TEXT * 100, "token_ms": 20}])
    async with running(slow) as (url, simulator):
        ledger = Ledger(target(provider, url))
        async with Relay(ledger) as relay:
            ask, call = asked(provider, stream=stream)
            if stream:
                async with aclosing(relay.stream(ask, call)) as pieces:
                    await anext(pieces)
                    await anext(pieces)
            else:
                task = asyncio.create_task(relay.whole(ask, call))
                await wait_until(lambda: simulator.open, "the call is made")
                task.cancel()
                await asyncio.wait([task])
            await wait_until(lambda: not simulator.open, "the connection upstream is closed", 1)
    assert ledger.kinds == ["estimated"]
    usage = ledger.lines[-1][2]
    assert usage.input_tokens > 0
    assert (usage.output_tokens > 0) is stream


async def test_a_reader_that_leaves_with_the_last_event_has_had_it_all(provider: Provider) -> None:
    async with running(quick(rules=[{"text": TEXT}])) as (url, simulator):
        ledger = Ledger(target(provider, url))
        async with Relay(ledger) as relay, aclosing(relay.stream(*asked(provider, stream=True))) as pieces:
            async for piece in pieces:
                if b"[DONE]" in piece or b"message_stop" in piece:
                    break
        assert ledger.kinds == ["done"]
        assert ledger.lines[-1][2].output_tokens == simulator.stats()["output_tokens"]


async def test_a_held_socket_ends_with_the_last_event() -> None:
    async with (
        running(quick(rules=[{"text": TEXT}], faults=[{"kind": "held_open", "every": 1, "seconds": 30}])) as (url, _),
        Relay(Ledger(target("openai", url))) as relay,
        asyncio.timeout(5),
    ):
        assert (await all_of(relay, *asked("openai", stream=True))).endswith(b"data: [DONE]\n\n")


async def test_a_stream_without_done_ends_with_its_connection() -> None:
    sent = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    async with sending([sent[:20], sent[20:]]) as url:
        ledger = Ledger(target("openai", url))
        async with Relay(ledger) as relay:
            assert await all_of(relay, *asked("openai", stream=True)) == sent
    assert ledger.kinds == ["done"]


async def test_bytes_split_anywhere_arrive_as_they_were() -> None:
    text = 'data: {"choices":[{"delta":{"content":"你好 \\"x\\""}}]}\r\n\r\n: c\r\n\r\n'.encode() * 3
    sent = text + b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    async with (
        sending([sent[i : i + 11] for i in range(0, len(sent), 11)], pause=0.001) as url,
        Relay(Ledger(target("openai", url))) as relay,
    ):
        assert await all_of(relay, *asked("openai", stream=True)) == sent


@pytest.mark.parametrize(
    ("chunks", "more", "kind"),
    [
        ([b""], {"content_type": "application/json"}, "incomplete"),
        ([b"<html>"], {"content_type": "text/html"}, "garbage"),
        ([b"[1]"], {"content_type": "application/json"}, "garbage"),
        ([b'{"error":{"message":"secret","type":"server_error"}}'], {"content_type": "application/json"}, "error_event"),
        ([b"<html>moved"], {"status": 302, "headers": {"Location": "http://127.0.0.1:9/"}}, "server_error"),
        ([b"x" * 300_000], {"status": 502}, "server_error"),
    ],
)
async def test_what_is_no_answer_is_a_failure(chunks: list[bytes], more: dict[str, Any], kind: str) -> None:
    async with sending(chunks, **more) as url, Relay(Ledger(target("openai", url))) as relay:
        with pytest.raises(LLMCallFailed) as caught:
            await relay.whole(*asked("openai", stream=False))
        assert "secret" not in caught.value.detail
    assert caught.value.kind == kind


async def test_an_error_in_json_where_a_stream_was_asked_for() -> None:
    async with (
        sending([b'{"error":{"type":"overloaded_error"}}'], content_type="application/json") as url,
        Relay(Ledger(target("openai", url))) as relay,
    ):
        with pytest.raises(LLMCallFailed) as caught:
            await all_of(relay, *asked("openai", stream=True))
    assert caught.value.kind == "overloaded"


async def test_a_target_that_cannot_be_reached_is_passed_over(provider: Provider) -> None:
    async with running(profile()) as (gone, _):
        pass
    async with running(profile()) as (url, _):
        ledger = Ledger(target(provider, gone, "bad"), target(provider, url, "good"))
        async with Relay(ledger) as relay:
            assert b"good" in (await relay.whole(*asked(provider, stream=False))).body
    assert ledger.kinds == ["connect", "done"]


async def test_time_that_is_over_makes_no_call() -> None:
    async with running(profile()) as (url, simulator):
        async with Relay(Ledger(target("openai", url))) as relay:
            with pytest.raises(DeadlineExceeded):
                await relay.whole(*asked("openai", stream=False, timeout=0.2))
            with pytest.raises(DependencyUnavailable):
                await relay.whole(*asked("anthropic", stream=False))  # no target speaks it
        assert simulator.calls == 0


async def test_connections_are_kept_and_large_bodies_sent(provider: Provider) -> None:
    async with running(quick(rules=[{"text": "hi"}])) as (url, simulator):
        async with Relay(Ledger(target(provider, url))) as relay:
            for stream in (True, False, True):
                ask, call = asked(provider, stream=stream, metadata={"x": "y" * 1_200_000})
                await (all_of(relay, ask, call) if stream else relay.whole(ask, call))
            session = relay._connections._session
            connector = session.connector if session else None
            assert connector is not None
            assert sum(len(c) for c in connector._conns.values()) == 1
        assert simulator.calls == 3
