"""The way of `models/<alias>`: a client's request goes to a target as it is, and the reply's bytes come back as they are.

Only the model's name is replaced. A call walks the legs that the gateway gives it: another target takes over as long as the client has seen
nothing. It knows HTTP towards the providers, and none towards the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import aiohttp
import orjson

from common.contracts.query import Usage
from heavy.llm.connections import Connections
from heavy.llm.legs import Ask, Leg
from heavy.llm.passing import ChatPassing, MessagesPassing, Passing, chat_usage, messages_usage
from heavy.llm.providers.failures import failed, from_body, from_exception
from heavy.llm.providers.wire import BROKEN, PURPOSE_HEADER, Clock, document, opened, read_end, read_whole, refusal, timed_out
from heavy.llm.relayed_body import RelayedBody
from heavy.llm.types import LLMCallFailed, LLMRequest, Target

OPENAI_URL, ANTHROPIC_URL = "https://api.openai.com/v1", "https://api.anthropic.com"
_JSON = {"content-type": "application/json", "accept": "*/*", "accept-encoding": "identity", "user-agent": "loadsplit"}


class Choosing(Protocol):
    """Who chooses the targets of calls: the gateway."""

    def legs(self, ask: Ask) -> AsyncGenerator[Leg, None]:
        """The targets that a call goes to in turn (heavy.llm.legs)."""

    def catalogue(self) -> Mapping[str, tuple[Target, ...]]:
        """All aliases with their targets, as they are now."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent: the body, the path behind the target's address, and the protocol's own headers. `counts` is False for a call that
    costs nothing."""

    path: str
    body: RelayedBody
    headers: Mapping[str, str] = field(default_factory=dict)
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply, and what it has cost."""

    body: bytes
    target: Target
    usage: Usage


class Refused(LLMCallFailed):
    """The provider does not take the request. What it says is about the client's own words, so the client may read it: `status`, `body`."""

    def __init__(self, error: LLMCallFailed, status: int, body: bytes) -> None:
        super().__init__(error.detail, kind=error.kind, retry_after=error.retry_after)
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        self.told_status, self.told_body = status, body


class Relay:
    """One for a process, to be entered: it keeps connections."""

    def __init__(self, gateway: Choosing) -> None:
        self._gateway = gateway
        self._connections = Connections()

    def catalogue(self) -> Mapping[str, tuple[Target, ...]]:
        """All aliases that may be asked for, with their targets."""
        return self._gateway.catalogue()

    async def whole(self, ask: Ask, call: Call) -> Answer:
        """One JSON call. Raises LLMCallFailed, and what the gateway's legs raise."""
        async with aclosing(self._gateway.legs(ask)) as legs:
            async for leg in legs:
                try:
                    body, usage = await self._whole(leg, call)
                except LLMCallFailed as e:
                    leg.failed(e)
                    continue
                except BaseException:  # the caller has gone, or stops: whoever keeps the books must hear of it
                    leg.left(Usage(llm_calls=1, input_tokens=ask.tokens), estimated=True)
                    raise
                leg.first_token()
                leg.done(usage)
                return Answer(body, leg.target, usage)
        raise failed("incomplete")

    async def stream(self, ask: Ask, call: Call) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed reply, the first of them once the answer has begun. Raises LLMCallFailed and what legs raise."""
        async with aclosing(self._gateway.legs(ask)) as legs:
            async for leg in legs:
                passing = (ChatPassing if leg.target.provider == "openai" else MessagesPassing)(hides_usage=call.body.hides_usage)
                try:
                    async with aclosing(self._stream(leg, call, passing)) as pieces:
                        async for piece in pieces:
                            yield piece
                except LLMCallFailed as e:
                    leg.failed(e)
                    continue
                except BaseException:  # as above; GeneratorExit, when the reader has left, is one
                    if passing.done:  # clients hang up as soon as they have read the last event
                        leg.done(passing.usage)
                    else:
                        leg.left(_so_far(passing, ask), estimated=not passing.counted)
                    raise
                leg.done(passing.usage)
                return
        raise failed("incomplete")

    async def __aenter__(self) -> Relay:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connections.aclose()

    async def _whole(self, leg: Leg, call: Call) -> tuple[bytes, Usage]:
        clock = _clock(leg, streaming=False)
        async with self._open(leg, call, clock) as response:
            body = await read_whole(response, clock)
            if not body.strip():
                raise failed("incomplete", why="an empty body")
            try:
                doc = orjson.loads(body)
            except orjson.JSONDecodeError as e:
                raise failed("garbage", why=f"not JSON: {e.msg}") from None
            if type(doc) is not dict:
                raise failed("garbage", why="JSON, but no object")
            if type(doc.get("error")) is dict:  # an error inside a success
                raise from_body(doc, status=response.status, headers=response.headers)
        return body, _usage(doc, leg.target) if call.counts else Usage()

    async def _stream(self, leg: Leg, call: Call, passing: Passing) -> AsyncGenerator[bytes, None]:
        clock = _clock(leg, streaming=True)
        begun = False
        async with self._open(leg, call, clock) as response:
            if "json" in response.headers.get("content-type", ""):
                raise from_body(document(await read_whole(response, clock)), status=None, headers=response.headers)
            while not passing.done:
                chunk = await _next(response, clock, passing)
                data, failure = passing.feed(chunk) if chunk else passing.end()
                if data:
                    if not begun:
                        begun = True
                        leg.first_token()
                    yield data
                if failure is not None:
                    raise failure
                if not chunk:
                    return
            await read_end(response)

    @asynccontextmanager
    async def _open(self, leg: Leg, call: Call, clock: Clock) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply of a target that has taken the request. The connection is closed with it, unless the reply was read to its end."""
        target = leg.target
        body, url = call.body.for_model(target.model), _url(target, call.path)
        headers = {**_JSON, PURPOSE_HEADER: "relay", **call.headers, **_key(target)}
        response = await opened(partial(self._connections.post, url, body, headers, connect_timeout=target.connect_timeout), clock)
        try:
            leg.told(response.headers)
            if response.status != 200:
                raise await _refusal(response, target, clock)
            yield response
        finally:
            response.close()


def _url(target: Target, path: str) -> str:
    if target.provider == "openai":
        return (target.base_url or OPENAI_URL).rstrip("/") + path
    return (target.base_url or ANTHROPIC_URL).rstrip("/").removesuffix("/v1") + "/v1" + path


def _key(target: Target) -> dict[str, str]:
    if not target.api_key:
        return {}
    return {"authorization": f"Bearer {target.api_key}"} if target.provider == "openai" else {"x-api-key": target.api_key}


def _clock(leg: Leg, *, streaming: bool) -> Clock:
    return Clock(leg.target, LLMRequest(leg.target.model, (), timeout=leg.timeout), streaming)


def _usage(doc: dict[str, Any], target: Target) -> Usage:
    if target.provider == "openai":
        return chat_usage(doc)
    usage = doc.get("usage")
    return messages_usage(usage if type(usage) is dict else {}, {}, 0)


def _so_far(passing: Passing, ask: Ask) -> Usage:
    """What a call has used whose reader has left: the provider's count, else a guess of a token for each event."""
    if passing.counted:
        return passing.usage
    known = passing.usage
    return replace(known, input_tokens=known.input_tokens or ask.tokens, output_tokens=max(known.output_tokens, passing.events))


async def _refusal(response: aiohttp.ClientResponse, target: Target, clock: Clock) -> LLMCallFailed:
    body = await refusal(response, clock)
    error = from_body(document(body), status=response.status, headers=response.headers)
    if error.kind != "invalid_request" or not body:
        return error
    key = target.api_key.encode()
    return Refused(error, response.status, body.replace(key, b"***") if key else body)


async def _next(response: aiohttp.ClientResponse, clock: Clock, passing: Passing) -> bytes:
    """The next bytes, as many as there are; empty at the end."""
    finished = passing.may_end
    try:
        async with asyncio.timeout_at(clock.next(passing.started, finished)):
            return await response.content.readany()
    except BROKEN as e:
        if finished:  # the answer is whole; only the end of the stream is missing
            return b""
        partial = passing.partial
        if timed_out(e):
            raise failed("timeout", why="a pause within the stream", partial=partial, usage=passing.usage) from None
        raise from_exception(e, partial=partial, usage=passing.usage) from None
