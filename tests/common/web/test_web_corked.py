"""What a client sees on the wire when the head of a reply goes with its body: one packet, in order, and never a head that is kept back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from common.web import server as served
from common.web.asgi import Receive, Scope, Send
from common.web.corked import Corked
from tests.support.waiting import wait_until


class App:
    """Answers by path; `go_on` lets a slow one end."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, body = scope["path"], b"" if scope["path"] == "/empty" else b"hello"
        head: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
        if path == "/stream":
            head["headers"] = [(b"content-type", b"text/event-stream")]
        await send(head)
        if path in ("/stream", "/slow"):
            await self.go_on.wait()
        if path == "/broken":
            raise RuntimeError("after the head")
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def connection(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, http=served._Protocol, lifespan="off", log_config=None, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        running = asyncio.ensure_future(server.serve(sockets=[sock]))
        await wait_until(lambda: server.started, "the server has started")
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        yield reader, writer
        writer.close()
        await writer.wait_closed()
        server.should_exit = True
        await running


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def test_replies_come_whole_and_in_order(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request("/a") + request("/empty") + request("/b", "HEAD") + request("/c"))
    heads = [await reader.readuntil(b"\r\n\r\n")]
    assert await reader.readexactly(5) == b"hello"
    heads.append(await reader.readuntil(b"\r\n\r\n"))
    heads.append(await reader.readuntil(b"\r\n\r\n"))  # of the HEAD, whose reply has no body
    heads.append(await reader.readuntil(b"\r\n\r\n"))
    assert await reader.readexactly(5) == b"hello"
    assert [b"HTTP/1.1 200 OK" in h for h in heads] == [True] * 4
    assert [b"content-length: 0" in h for h in heads] == [False, True, False, False]


async def test_a_streams_head_is_not_kept_back(app: App, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request("/stream"))
    assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
    app.go_on.set()
    assert await reader.readuntil(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_a_slow_body_comes_with_its_head(app: App, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request("/slow"))
    app.go_on.set()
    assert b"content-length: 5" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(5) == b"hello"


async def test_an_app_that_breaks_behind_its_head_closes(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request("/broken"))
    assert b"content-length: 5" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.read() == b""


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_one_write_for_a_reply() -> None:
    wire = Wire()
    corked = Corked(wire)  # type: ignore[arg-type]
    corked.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    assert wire.written == []
    corked.write(b"ok")
    corked.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    corked.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\n")
    corked.close()
    assert [len(w.splitlines()) for w in wire.written] == [4, 2, 3]
    assert corked.is_closing()
