"""The way of `models/<alias>`: a client's request goes to a target as it is, and the reply's bytes come back as they are.

Only the model's name is replaced. A call walks the legs that the gateway gives it: another target takes over as long as the client has seen
nothing. It knows HTTP towards the providers, and none towards the client.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from common.contracts.query import Usage
from heavy.llm.legs import Ask, Leg
from heavy.llm.passing import ChatPassing, MessagesPassing, Passing, chat_usage, messages_usage
from heavy.llm.providers.failures import failed, from_body, from_exception
from heavy.llm.providers.wire import END_OF_BODY_SECONDS, PURPOSE_HEADER, Clock
from heavy.llm.relayed_body import RelayedBody
from heavy.llm.types import LLMCallFailed, LLMRequest, Target

OPENAI_URL, ANTHROPIC_URL = "https://api.openai.com/v1", "https://api.anthropic.com"
KEEP_ALIVE_SECONDS = 60.0
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 256 * 1024
LARGE_BODY = 1024 * 1024  # from here on aiohttp wants a file
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
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

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
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _whole(self, leg: Leg, call: Call) -> tuple[bytes, Usage]:
        clock = _clock(leg, streaming=False)
        async with self._open(leg, call, clock) as response:
            body = await _read_whole(response, clock)
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
                raise from_body(_document(await _read_whole(response, clock)), status=None, headers=response.headers)
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
            await _read_end(response)

    @asynccontextmanager
    async def _open(self, leg: Leg, call: Call, clock: Clock) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply of a target that has taken the request. The connection is closed with it, unless the reply was read to its end."""
        target = leg.target
        body, url = call.body.for_model(target.model), _url(target, call.path)
        if url not in self._proxies:
            self._proxies[url] = _proxy(url)
        try:
            async with asyncio.timeout_at(clock.next(False)):
                response = await self._client().post(
                    url,
                    data=body if len(body) < LARGE_BODY else io.BytesIO(body),
                    headers={**_JSON, PURPOSE_HEADER: "relay", **call.headers, **_key(target)},
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=target.connect_timeout),
                    proxy=self._proxies[url],
                    allow_redirects=False,  # the key must not follow to another host
                )
        except (aiohttp.ClientError, OSError) as e:
            if isinstance(e, TimeoutError) and not isinstance(e, aiohttp.ClientError):
                raise failed("timeout", why="no response within the time for the first token") from None
            raise from_exception(e) from None
        try:
            leg.told(response.headers)
            if response.status != 200:
                raise await _refusal(response, target, clock)
            yield response
        finally:
            response.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _url(target: Target, path: str) -> str:
    if target.provider == "openai":
        return (target.base_url or OPENAI_URL).rstrip("/") + path
    return (target.base_url or ANTHROPIC_URL).rstrip("/").removesuffix("/v1") + "/v1" + path


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address, as the SDKs take it. Asked once: aiohttp would ask in a thread for each call."""
    at = urlsplit(url)
    if proxy_bypass(at.netloc):
        return None
    known = getproxies()
    return known.get(at.scheme) or known.get("all")


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
    body = b""
    try:
        async with asyncio.timeout_at(clock.next(False)):
            while len(body) < MAX_ERROR_BYTES and (piece := await response.content.read(MAX_ERROR_BYTES)):
                body += piece
    except (aiohttp.ClientError, OSError):
        body = b""  # the status says enough
    error = from_body(_document(body), status=response.status, headers=response.headers)
    if error.kind != "invalid_request" or not body:
        return error
    key = target.api_key.encode()
    return Refused(error, response.status, body.replace(key, b"***") if key else body)


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


async def _read_whole(response: aiohttp.ClientResponse, clock: Clock) -> bytes:
    pieces, size = [], 0
    try:
        async with asyncio.timeout_at(clock.end):
            while piece := await response.content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise failed("garbage", why=f"a reply of more than {MAX_REPLY_BYTES} bytes")
    except (aiohttp.ClientError, OSError) as e:
        if isinstance(e, TimeoutError) and not isinstance(e, aiohttp.ClientError):
            raise failed("timeout") from None
        raise from_exception(e) from None
    return b"".join(pieces)


async def _next(response: aiohttp.ClientResponse, clock: Clock, passing: Passing) -> bytes:
    """The next bytes, as many as there are; empty at the end."""
    finished = passing.may_end
    try:
        async with asyncio.timeout_at(clock.next(passing.started, finished)):
            return await response.content.readany()
    except (aiohttp.ClientError, OSError) as e:
        if finished:  # the answer is whole; only the end of the stream is missing
            return b""
        partial = passing.partial
        if isinstance(e, TimeoutError) and not isinstance(e, aiohttp.ClientError):
            raise failed("timeout", why="a pause within the stream", partial=partial, usage=passing.usage) from None
        raise from_exception(e, partial=partial, usage=passing.usage) from None


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Behind the last event the body should end at once: then the connection serves the next call."""
    try:
        async with asyncio.timeout(END_OF_BODY_SECONDS):
            while await response.content.readany():
                pass
    except (aiohttp.ClientError, OSError):
        return
