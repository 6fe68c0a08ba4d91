"""What a client sees on the wire: replies whole and in order, never a head that is kept back, nothing that an app may not say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from common.web.asgi import Receive, Scope, Send
from common.web.http1 import Http1
from tests.support.waiting import wait_until


class App:
    """Answers by path; `go_on` lets a slow one end."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.seen: list[str] = []
        self.ended: list[str] = []
        self.headers = {
            "/injected": [(b"content-length", b"5"), (b"x-said", b"a\r\nset-cookie: b")],
            "/no-name": [(b"content-length", b"5"), (b"x said", b"a")],
            "/short": [(b"content-length", b"6")],
            "/long": [(b"content-length", b"4")],
            "/last": [(b"content-length", b"5"), (b"Connection", b"close")],
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, body = scope["path"], b"" if scope["path"] == "/empty" else b"hello"
        self.seen.append(path)
        if path in self.headers:
            await send({"type": "http.response.start", "status": 200, "headers": self.headers[path]})
            await send({"type": "http.response.body", "body": b"hello"})
            return
        if path == "/echo":
            body = b""
            while (message := await receive()).get("more_body"):
                body += message["body"]
            body += message["body"]
        head: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
        if path == "/stream":
            head["headers"] = [(b"content-type", b"text/event-stream")]
        await send(head)
        if path in ("/stream", "/slow"):
            await self.go_on.wait()
        if path == "/until-gone":
            await receive()
            self.ended.append((await receive())["type"])
        if path == "/broken":
            raise RuntimeError("after the head")
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def connection(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, http=Http1, lifespan="off", log_config=None, log_level="critical", timeout_keep_alive=1)
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


@pytest.mark.parametrize("path", ["/injected", "/no-name"])
async def test_a_header_that_is_none_is_never_sent(path: str, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request(path))
    reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in reply


@pytest.mark.parametrize("path", ["/short", "/long"])
async def test_a_body_of_another_length_than_told_closes(path: str, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request(path) + request("/a"))
    reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\n")


async def test_an_app_closes_the_connection_behind_its_reply(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(request("/last"))
    reply = await reader.read()
    assert reply.count(b"connection: close") == 1
    assert reply.endswith(b"\r\n\r\nhello")


async def test_an_old_client_gets_its_connection_closed(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(b"GET /a HTTP/1.0\r\n\r\n")
    assert b"connection: close\r\n" in await reader.read()


async def test_a_body_comes_in_pieces_after_the_server_said_go_on(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(b"POST /echo HTTP/1.1\r\ncontent-length: 6\r\nexpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    await writer.drain()
    writer.write(b"def")
    assert b"content-length: 6" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(6) == b"abcdef"


async def test_an_app_hears_that_the_client_has_gone(app: App, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    _, writer = connection
    writer.write(request("/until-gone"))
    await wait_until(lambda: bool(app.seen), "the app has the request")
    writer.close()
    await wait_until(lambda: app.ended == ["http.disconnect"], "the app was told")


async def test_a_quoted_path_and_its_question(app: App, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    for url in ("/a%20b?c=d", "/", "/a/", "/a.b/c-d_e"):
        writer.write(request(url))
        await reader.readuntil(b"hello")
    assert app.seen == ["/a b", "/", "/a/", "/a.b/c-d_e"]


async def test_an_idle_connection_is_closed_one_in_use_is_not(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    began = asyncio.get_running_loop().time()
    writer.write(request("/a"))
    await reader.readuntil(b"hello")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.6)
    writer.write(request("/a"))
    await reader.readuntil(b"hello")
    assert await reader.read() == b""
    assert 1.5 < asyncio.get_running_loop().time() - began < 3
