"""The few ASGI steps that plain callables need: a header, a request id, a capped body, a JSON reply. It knows no framework and no route."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from common.errors import PayloadTooLarge, UnsupportedMediaType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

BODY_LIMIT = 262_144
DISCARD_LIMIT, DISCARD_SECONDS = 16_777_216, 3.0
JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")


class ClientDisconnected(Exception):
    """The client went away before its request was read. There is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name (lower case), None without one."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def request_id(scope: Scope) -> str:
    """The caller's X-Request-Id where it is 1 to 128 of [A-Za-z0-9._-], else 32 random hex digits; the same for every call in a request."""
    state = scope.setdefault("state", {})
    known = state.get("request_id")
    if known is None:
        given = header(scope, b"x-request-id")
        known = state["request_id"] = given.decode() if given and _REQUEST_ID.match(given) else os.urandom(16).hex()
    return str(known)


async def read_body(scope: Scope, receive: Receive, limit: int = BODY_LIMIT) -> bytes:
    """The whole body, at most `limit` bytes. Its type must be application/json or not be named at all.

    Raises UnsupportedMediaType, PayloadTooLarge, ClientDisconnected. What is refused is read to its end (up to DISCARD_LIMIT) and thrown
    away: a server that closes with bytes unread resets the connection, and the client never sees the reason.
    """
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", JSON)
    if content_type != JSON and content_type.partition(b";")[0].strip().lower() != JSON:
        await discard(receive)
        raise UnsupportedMediaType("the body must be application/json")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        await discard(receive)
        raise PayloadTooLarge(f"the body is larger than {limit} bytes")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body = message.get("body", b"")
        if len(body) > limit:
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        return bytes(body)
    chunks, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            if message.get("more_body", False):
                await discard(receive)
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


async def discard(receive: Receive) -> None:
    """Reads what is left of a refused body, within bounds of size and time."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while size <= DISCARD_LIMIT:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


async def send_json(send: Send, status: int, body: bytes, headers: Headers = (), *, content_type: bytes = JSON) -> None:
    """A whole reply in two messages; content-type and content-length are set here."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})
