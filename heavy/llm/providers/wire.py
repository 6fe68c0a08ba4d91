"""One call on the wire: opening, the three timers, the event loop over bytes, the check that the end is a real end.

Shared by the providers. It knows HTTP responses as the SDKs hand them out (httpx2), but no provider's format: a Reader does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import aiohttp
import httpx2
import orjson

from heavy.llm.headers import pause
from heavy.llm.providers.assembly import Assembly
from heavy.llm.providers.failures import failed, from_body, from_exception
from heavy.llm.sse import SSEDecoder, StreamTooLarge
from heavy.llm.types import Chunk, LLMCallFailed, LLMRequest, Target, TextDelta

# Tells a proxy or the simulator what the call is for; providers ignore it.
PURPOSE_HEADER = "X-Loadsplit-Purpose"
# Both SDKs take this header as the wish for a response whose body they have not read (their `with_streaming_response` sets it).
UNREAD = {"X-Stainless-Raw-Response": "stream"}
# Calls at once are limited by targets and by admission, not by the SDKs' 1 000 connections, behind which a stream waits in vain. 0 is
# aiohttp's word for no limit; None would be its default of 100.
UNLIMITED = httpx2.Limits(max_connections=0)
# What iterating a response may raise. Anything else is a fault of ours and must be seen as one.
BROKEN = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)
# What a Reader raises at a document of another shape than its provider's.
NONSENSE = (TypeError, ValueError, KeyError, AttributeError, IndexError)
# After the last event the body should end at once. Reading that end keeps the connection for the next call; more waiting would cost more.
END_OF_BODY_SECONDS = 0.05
# How long a stream that has said why it stopped may still take for its token counts.
AFTER_FINISH_SECONDS = 2.0


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
    call: Callable[[], Awaitable[httpx2.Response]],
    reader: Reader,
    clock: Clock,
    *,
    streaming: bool,
    sdk_error: Callable[[Exception], LLMCallFailed],
    sdk_errors: type[Exception],
) -> AsyncGenerator[Chunk, None]:
    """Makes the call and yields text deltas and one Completed. Closes the connection whichever way it is left."""
    try:
        async with asyncio.timeout_at(clock.next(False)):
            response = await call()
    except TimeoutError:
        raise failed("timeout", why="no response within the time for the first token") from None
    except sdk_errors as e:
        raise sdk_error(e) from None
    except BROKEN as e:
        raise from_exception(e) from None
    try:
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
        await response.aclose()


def _pause(headers: httpx2.Headers) -> float | None:
    """How long the provider wants no further call. Most servers say nothing: one look at the names settles it."""
    if any(b"ratelimit" in name.lower() for name, _ in headers.raw):
        return pause(headers)
    return None


async def _whole(response: httpx2.Response, reader: Reader, clock: Clock) -> None:
    usage = reader.assembly.usage
    try:
        async with asyncio.timeout_at(clock.end):
            body = await response.aread()
    except TimeoutError:
        raise failed("timeout", usage=usage) from None
    except BROKEN as e:
        raise from_exception(e, usage=usage) from None
    if not body.strip():
        raise failed("incomplete", why="an empty body", usage=usage)
    doc = _json(body, reader)
    if isinstance(doc.get("error"), dict):  # an error inside a success
        raise from_body(doc, status=response.status_code, headers=response.headers, usage=usage)
    try:
        reader.whole(doc)
    except NONSENSE as e:
        raise failed("garbage", why=f"{type(e).__name__}: {e}", usage=usage) from None


async def _events(response: httpx2.Response, reader: Reader, clock: Clock) -> AsyncGenerator[Chunk, None]:
    decoder = SSEDecoder()
    body = response.aiter_bytes()
    assembly = reader.assembly
    while not reader.done:
        chunk = await _next_bytes(body, reader, clock)
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
    await _read_end(body)


async def _next_bytes(body: Any, reader: Reader, clock: Clock) -> bytes:
    """The next bytes; empty at the end of the body."""
    assembly, finished = reader.assembly, reader.may_end
    try:
        async with asyncio.timeout_at(clock.next(assembly.started, finished)):
            async for chunk in body:
                if chunk:
                    return bytes(chunk)
            return b""
    except TimeoutError:
        if finished:  # the answer is whole; only the end of the stream is missing
            return b""
        raise failed("timeout", why="a pause within the stream", partial=assembly.partial, usage=assembly.usage) from None
    except BROKEN as e:
        if finished:
            return b""
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


async def _read_end(body: Any) -> None:
    try:
        async with asyncio.timeout(END_OF_BODY_SECONDS):
            async for _ in body:
                pass
    except (TimeoutError, *BROKEN):
        return  # the answer is whole; without its end the connection is closed instead of kept
