"""The edge and the SSE writer under a real uvicorn: what a client on the wire sees, and what its leaving does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from common.web.asgi import Receive, Scope, Send, read_body, send_json
from common.web.errors import exception_handlers
from common.web.middleware import Edge, InFlight
from common.web.sse import SSEWriter
from tests.support.waiting import wait_until


class Served:
    """An app with an endless stream and an echo; knows how many streams are open."""

    def __init__(self) -> None:
        self.open = 0
        self.inflight = InFlight()
        self.app = Starlette(
            routes=[Mount("/stream", self.stream), Mount("/echo", self.echo)],
            middleware=[Middleware(Edge, tier="heavy", config_hash=lambda: "c0ffee", inflight=self.inflight)],
            exception_handlers=exception_handlers(),
        )

    async def frames(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            for n in range(1, 1_000_000):
                yield b"id: %d\ndata: {}\n\n" % n
                await asyncio.sleep(0.005)
        finally:
            self.open -= 1

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(scope, receive)
        await SSEWriter(receive, send).run(self.frames())

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await read_body(scope, receive))


@pytest.fixture
async def served() -> AsyncIterator[tuple[Served, str]]:
    it = Served()
    server = uvicorn.Server(uvicorn.Config(it.app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        running = asyncio.ensure_future(server.serve(sockets=[sock]))
        await wait_until(lambda: server.started, "the server has started")
        yield it, f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        await running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_stream_and_a_client_that_leaves(served: tuple[Served, str], http: aiohttp.ClientSession) -> None:
    it, url = served
    async with http.post(url + "/stream/", json={}) as response:
        assert response.status == 200
        assert response.headers["X-Loadsplit-Tier"] == "heavy"
        first = await response.content.readexactly(len(b"retry: 1000\n\nid: 1\n"))
        assert first == b"retry: 1000\n\nid: 1\n"
        await wait_until(lambda: (it.open, it.inflight.count) == (1, 1), "one stream is open")
        response.close()
    await wait_until(lambda: (it.open, it.inflight.count) == (0, 0), "the stream has ended with its client")


async def test_bodies_on_the_wire(served: tuple[Served, str], http: aiohttp.ClientSession) -> None:
    _, url = served

    async def post(**kw: Any) -> tuple[int, Any]:
        async with http.post(url + "/echo/", **kw) as response:
            assert response.headers["X-Request-Id"]
            return response.status, await response.json(content_type=None)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    json_type = {"content-type": "application/json"}
    assert await post(json={"a": 1}) == (200, {"a": 1})
    status, told = await post(data=b" " * 300_000, headers=json_type)
    assert (status, told["code"]) == (413, "payload_too_large")
    status, told = await post(data=chunks(), headers=json_type)
    assert (status, told["code"]) == (413, "payload_too_large")
    status, told = await post(data=b"a=b")
    assert (status, told["code"]) == (415, "unsupported_media_type")
