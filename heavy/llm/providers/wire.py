"""One call on the wire: opening, the three timers, the event loop over bytes, the check that the end is a real end.

Shared by the providers. It knows HTTP replies, but no provider's format: a Reader does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import aiohttp
import orjson

from common.contracts.query import Usage
from heavy.llm.headers import pause
from heavy.llm.providers.assembly import Assembly
from heavy.llm.providers.failures import failed, from_body, from_exception
from heavy.llm.sse import SSEDecoder, StreamTooLarge
from heavy.llm.types import Chunk, LLMCallFailed, LLMRequest, Target, TextDelta

# Tells a proxy or the simulator what the call is for; providers ignore it.
PURPOSE_HEADER = "X-Loadsplit-Purpose"
# What a connection may raise. Anything else is a fault of ours and must be seen as one.
BROKEN = (aiohttp.ClientError, OSError)
# What a Reader raises at a document of another shape than its provider's.
NONSENSE = (TypeError, ValueError, KeyError, AttributeError, IndexError)
# After the last event the body should end at once. Reading that end keeps the connection for the next call; more waiting would cost more.
END_OF_BODY_SECONDS = 0.05
# How long a stream that has said why it stopped may still take for its token counts.
AFTER_FINISH_SECONDS = 2.0
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where a target's calls go, and the headers that its SDK gives them: the key, the protocol's version, who we are."""

    url: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, base_url: object, path: str, headers: Mapping[str, object]) -> Address:
        """The same of an SDK's client; a header that it leaves out is no string."""
        return cls(str(base_url).rstrip("/") + path, {name: value for name, value in headers.items() if isinstance(value, str)})


class Reader(Protocol):
    """One provider's reading of its events. A shape that makes no sense raises one of NONSENSE."""

    assembly: Assembly
    done: bool

    @property
    def may_end(self) -> bool:
        """Whether a clean end of the stream now is a complete answer."""

    def event(self, doc: dict[str, Any]) -> str:
        """Takes in one event and returns its text, if any. Sets `done` at the terminal event; raises LLMCallFailed for an error event."""

    def whole(self, doc: dict[str, Any]) -> None:
        """Takes in a reply that came as one JSON document."""


class Clock:
    """The time limits of one call, in seconds: the whole call, the first piece of the answer, and each pause after it."""

    def __init__(self, target: Target, request: LLMRequest, streaming: bool) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self.end = now + (target.total_timeout if request.timeout is None else min(target.total_timeout, request.timeout))
        self._first = min(self.end, now + target.first_token_timeout) if streaming else self.end
        self._idle = target.idle_timeout

    def next(self, started: bool, finished: bool = False) -> float:
        """When the next bytes have to be there, in the event loop's time. Time that the consumer takes does not count as a pause."""
        if not started and not finished:
            return self._first
        return min(self.end, self._loop.time() + (AFTER_FINISH_SECONDS if finished else self._idle))


async def converse(
    call: Callable[[], Awaitable[aiohttp.ClientResponse]], reader: Reader, clock: Clock, *, streaming: bool
) -> AsyncGenerator[Chunk, None]:
    """Makes the call and yields text deltas and one Completed. Closes the connection whichever way it is left."""
    response = await opened(call, clock)
    del call  # with the request: a stream would keep its bytes as long as it lasts
    try:
        if not 200 <= response.status < 300:
            raise from_body(document(await refusal(response, clock)), status=response.status, headers=response.headers)
        if streaming and "json" not in response.headers.get("content-type", ""):
            async for chunk in _events(response, reader, clock):
                yield chunk
        else:
            await _whole(response, reader, clock)
            if streaming and reader.assembly.partial:
                yield TextDelta(reader.assembly.partial)
        yield replace(reader.assembly.completed(), pause=_pause(response.headers))
    except LLMCallFailed as e:
        e.calls_begun = reader.assembly.calls_begun
        raise
    finally:
        response.close()


async def opened(call: Callable[[], Awaitable[aiohttp.ClientResponse]], clock: Clock) -> aiohttp.ClientResponse:
    """The reply of a target, its body not read yet. Raises LLMCallFailed."""
    try:
        async with asyncio.timeout_at(clock.next(False)):
            return await call()
    except BROKEN as e:
        if timed_out(e):
            raise failed("timeout", why="no response within the time for the first token") from None
        raise from_exception(e) from None


def timed_out(error: BaseException) -> bool:
    """Whether it was our own clock that ended the wait; aiohttp's own time-outs are of connections."""
    return isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError)


async def refusal(response: aiohttp.ClientResponse, clock: Clock) -> bytes:
    """The body of a refusal, as far as it comes in time: the status says enough without."""
    body = b""
    try:
        async with asyncio.timeout_at(clock.next(False)):
            while len(body) < MAX_ERROR_BYTES and (piece := await response.content.read(MAX_ERROR_BYTES)):
                body += piece
    except BROKEN:
        return b""
    return body


def document(body: bytes) -> Any:
    """JSON as its value, anything else as text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


async def read_whole(response: aiohttp.ClientResponse, clock: Clock, usage: Usage | None = None) -> bytes:
    """The whole body. Raises LLMCallFailed, with what is known of the call's usage."""
    pieces, size = [], 0
    try:
        async with asyncio.timeout_at(clock.end):
            while piece := await response.content.readany():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise failed("garbage", why=f"a reply of more than {MAX_REPLY_BYTES} bytes", usage=usage)
    except BROKEN as e:
        if timed_out(e):
            raise failed("timeout", usage=usage) from None
        raise from_exception(e, usage=usage) from None
    return b"".join(pieces)


async def read_end(response: aiohttp.ClientResponse) -> None:
    """Behind the last event the body should end at once: then the connection serves the next call. The answer is whole without it."""
    try:
        async with asyncio.timeout(END_OF_BODY_SECONDS):
            while await response.content.readany():
                pass
    except BROKEN:
        return


def _pause(headers: Mapping[str, str]) -> float | None:
    """How long the provider wants no further call. Most servers say nothing: one look at the names settles it."""
    if any("ratelimit" in name.lower() for name in headers):
        return pause(headers)
    return None


async def _whole(response: aiohttp.ClientResponse, reader: Reader, clock: Clock) -> None:
    usage = reader.assembly.usage
    body = await read_whole(response, clock, usage)
    if not body.strip():
        raise failed("incomplete", why="an empty body", usage=usage)
    doc = _json(body, reader)
    if isinstance(doc.get("error"), dict):  # an error inside a success
        raise from_body(doc, status=response.status, headers=response.headers, usage=usage)
    try:
        reader.whole(doc)
    except NONSENSE as e:
        raise failed("garbage", why=f"{type(e).__name__}: {e}", usage=usage) from None


async def _events(response: aiohttp.ClientResponse, reader: Reader, clock: Clock) -> AsyncGenerator[Chunk, None]:
    decoder = SSEDecoder()
    assembly = reader.assembly
    while not reader.done:
        chunk = await _next_bytes(response, reader, clock)
        if not chunk:
            last = _check_end(decoder, reader)
            if last:
                yield TextDelta(last)
            return
        try:
            events = decoder.feed(chunk)
        except StreamTooLarge as e:
            raise failed("garbage", why=str(e), partial=assembly.partial, usage=assembly.usage) from None
        for _, data in events:
            text = _take(data, reader)
            if text:
                yield TextDelta(text)
            if reader.done:
                break
        if decoder.unknown is not None and not reader.done:
            raise failed(
                "garbage", why=f"a line that is no event: {decoder.unknown[:80]!r}", partial=assembly.partial, usage=assembly.usage
            )
    await read_end(response)


async def _next_bytes(response: aiohttp.ClientResponse, reader: Reader, clock: Clock) -> bytes:
    """The next bytes, as many as there are; empty at the end of the body."""
    assembly, finished = reader.assembly, reader.may_end
    try:
        async with asyncio.timeout_at(clock.next(assembly.started, finished)):
            return await response.content.readany()
    except BROKEN as e:
        if finished:  # the answer is whole; only the end of the stream is missing
            return b""
        if timed_out(e):
            raise failed("timeout", why="a pause within the stream", partial=assembly.partial, usage=assembly.usage) from None
        raise from_exception(e, partial=assembly.partial, usage=assembly.usage) from None


def _take(data: bytes, reader: Reader) -> str:
    if data == b"[DONE]":
        if not reader.may_end:
            raise failed("incomplete", why="[DONE] without a finish reason", partial=reader.assembly.partial, usage=reader.assembly.usage)
        reader.done = True
        return ""
    doc = _json(data, reader)
    try:
        text = reader.event(doc)
    except NONSENSE as e:
        raise failed("garbage", why=f"{type(e).__name__}: {e}", partial=reader.assembly.partial, usage=reader.assembly.usage) from None
    if text:
        reader.assembly.add_text(text)
    return text


def _json(data: bytes, reader: Reader) -> dict[str, Any]:
    try:
        doc = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise failed("garbage", why=f"not JSON: {e.msg}", partial=reader.assembly.partial, usage=reader.assembly.usage) from None
    if not isinstance(doc, dict):
        raise failed("garbage", why="JSON, but no object", partial=reader.assembly.partial, usage=reader.assembly.usage)
    return doc


def _check_end(decoder: SSEDecoder, reader: Reader) -> str:
    """The body has ended without a terminal event: complete only if the reader says so. Returns text of an unfinished last event."""
    text = ""
    for _, data in decoder.flush():
        try:
            text += _take(data, reader)
        except LLMCallFailed as e:
            if e.kind != "garbage":  # half an event is what a broken stream looks like
                raise
    if not reader.done and not reader.may_end:
        raise failed("incomplete", partial=reader.assembly.partial, usage=reader.assembly.usage)
    return text
