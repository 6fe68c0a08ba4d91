"""Hands a request on to heavy: by X-Accel-Redirect where Nginx stands in front, else by proxying it. Knows tickets only as opaque values.

A hand-off holds nothing back: Accel frees the worker at once, Proxy streams both ways and closes upstream when the client goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from starlette.websockets import WebSocket
from yarl import URL

from common.contracts.ticket import HEADER, SESSION_HEADER
from common.errors import DependencyUnavailable
from common.web.asgi import Receive, Scope, Send, request_id
from lightweight.sockets import relay

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
SILENT_SECONDS = 300.0  # heavy sends a heartbeat every 15 s on streams; JSON replies wait for whole agent runs
RETRY_AFTER = 1.0
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
# Never from a client: only this tier vouches for them.
_INTERNAL = (b"x-loadsplit-ticket", b"x-loadsplit-session")


class Handoff(Protocol):
    """One way to heavy."""

    mode: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        """Answers the request through heavy. `body` has been read already. With an empty ticket the caller's own key must do there. Raises
        DependencyUnavailable before the first byte only."""

    async def aclose(self) -> None:
        """Closes connections."""


class Accel:
    """Tells Nginx to send the original request to heavy. The named location keeps method and body, and hashes by the session header."""

    mode = "accel"

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        """Answers at once, without a body."""
        headers = [
            (b"x-accel-redirect", b"@heavy"),
            *([(HEADER.encode(), ticket.encode())] if ticket else []),
            (SESSION_HEADER.encode(), session_key.encode()),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def aclose(self) -> None:
        """Nothing is open."""


class Proxy:
    """Sends requests to heavy itself and streams the replies back."""

    mode = "proxy"

    def __init__(self, heavy_url: str) -> None:
        self._base = heavy_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        """Sends the request with its ticket; once more when a kept connection was closed already: heavy knows the turn by its id. (A call
        of a model has none: at worst it is made twice, which costs and does no harm.)"""
        headers = _request_headers(scope)
        if ticket:
            headers[HEADER] = ticket
        headers[SESSION_HEADER] = session_key
        headers["X-Request-Id"] = request_id(scope)
        try:
            await self._relay(scope, receive, send, headers, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as e:
            if isinstance(e, aiohttp.ClientConnectorError):
                raise _away() from None
            try:
                await self._relay(scope, receive, send, headers, body)
            except aiohttp.ClientError:
                raise _away() from None
        except (aiohttp.ClientError, TimeoutError):
            raise _away() from None

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other request for heavy, with its own headers and a streamed body. Raises DependencyUnavailable before the first byte."""
        headers = _request_headers(scope)
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        try:
            await self._relay(scope, receive, send, headers, _chunks(receive) if has_body else None)
        except (aiohttp.ClientError, TimeoutError):
            raise _away() from None

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket of heavy's. It keeps the client's Host, by which heavy tells a page of its own from another one."""
        headers = [(k, v) for k, v in _request_headers(scope).items() if not k.lower().startswith("sec-websocket-")]
        headers += [("Host", value.decode("latin-1")) for name, value in scope["headers"] if name == b"host"]
        await relay(WebSocket(scope, receive, send), self._open(), URL(self._base + _target(scope), encoded=True), headers)

    async def ping(self) -> None:
        """Asks heavy whether it lives. Raises DependencyUnavailable."""
        try:
            async with self._open().get(self._base + "/livez") as response:
                if response.status != 200:
                    raise _away()
        except (aiohttp.ClientError, TimeoutError):
            raise _away() from None

    async def aclose(self) -> None:
        """Closes the connections to heavy."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _relay(self, scope: Scope, receive: Receive, send: Send, headers: CIMultiDict[str], body: Any) -> None:
        url = URL(self._base + _target(scope), encoded=True)
        session = self._open()
        async with session.request(scope["method"], url, headers=headers, data=body, allow_redirects=False) as response:
            await send({"type": "http.response.start", "status": response.status, "headers": _response_headers(response)})
            await _copy_unless_gone(response, receive, send, scope["path"])

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS),
                trust_env=False,
            )
        return self._session


def _away() -> DependencyUnavailable:
    return DependencyUnavailable("the LLM tier can't be reached", retry_after=RETRY_AFTER)


def _target(scope: Scope) -> str:
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    path = path.split(b"?", 1)[0]
    query = scope.get("query_string") or b""
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def _request_headers(scope: Scope) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in scope["headers"]:
        if name in _HOP_BY_HOP or name in _INTERNAL or name in (b"host", b"expect") or name.startswith(b"x-accel-"):
            continue
        headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return headers


def _response_headers(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.lower() not in _HOP_BY_HOP and name.lower() not in (b"date", b"server") and not name.lower().startswith(b"x-accel-")
    ]


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise aiohttp.ClientConnectionError("the client has gone")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _copy_unless_gone(response: aiohttp.ClientResponse, receive: Receive, send: Send, path: str) -> None:
    """Copies the body; a client that goes ends it at once, and with it the connection to heavy."""
    copy = asyncio.create_task(_copy(response, send))
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((gone, copy), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        copy.cancel()
        await asyncio.wait((gone, copy))
    if copy.cancelled():
        response.close()
    elif isinstance(broken := copy.exception(), aiohttp.ClientError | TimeoutError):
        # The reply has begun, so it can only end short: uvicorn closes the connection, and a stream's reader resumes.
        log.warning("heavy broke off a reply", extra={"path": path, "reason": type(broken).__name__})
    elif broken is not None:
        raise broken


async def _copy(response: aiohttp.ClientResponse, send: Send) -> None:
    async for chunk in response.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
