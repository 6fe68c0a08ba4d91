"""A business API on loopback that misbehaves on request: redirects, bombs, floods, slowness, resets. It remembers what it was asked."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web


class HostileApi:
    """`asked` holds (method, raw path, headers, body) of every request; `answers` are statuses to give first on /flaky,
    `retry_after` is what /busy says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.retry_after = ""
        self.sent = 0
        self.go = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.raw_path, {k.lower(): v for k, v in request.headers.items()}, body))
        action = getattr(self, "do_" + request.path.split("/")[1], None)
        return (
            await action(request, body) if action else web.json_response({"ok": True, "path": request.raw_path, "asked": len(self.asked)})
        )

    async def do_redirect(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"{self.url}/secret"})

    async def do_fail(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(status=int(request.path.split("/")[2]), text="secret internal stack trace", headers={"X-Accel-Redirect": "/x"})

    async def do_flaky(self, request: web.Request, body: bytes) -> web.StreamResponse:
        status = self.answers.pop(0) if self.answers else 200
        return web.json_response({"status": status}, status=status)

    async def do_busy(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": self.retry_after})

    async def do_slow(self, request: web.Request, body: bytes) -> web.StreamResponse:
        await self.go.wait()
        return web.json_response({})

    async def do_flood(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(16384):  # 1 GB
                await response.write(b"x" * 65536)
                self.sent += 65536
        return response

    async def do_declared(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(10**9)})
        await response.prepare(request)
        with suppress(ConnectionError):
            await self.go.wait()
        return response

    async def do_bomb(self, request: web.Request, body: bytes) -> web.StreamResponse:
        packed = gzip.compress(b"\0" * 200_000_000, 9)
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async def do_deep(self, request: web.Request, body: bytes) -> web.StreamResponse:
        depth = int(request.path.split("/")[2])
        return web.Response(body=b'{"a":' * depth + b"1" + b"}" * depth, content_type="application/json")

    async def do_reset(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.transport is not None:
            sock: Any = request.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            request.transport.abort()
        return web.Response()

    async def do_half(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"a":')
        if request.transport is not None:
            request.transport.abort()
        return response

    async def do_text(self, request: web.Request, body: bytes) -> web.StreamResponse:
        kind = request.query.get("type", "text/plain")
        return web.Response(body=bytes.fromhex(request.query["hex"]), headers={"Content-Type": kind, "Set-Cookie": "a=b"})

    async def do_none(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(status=204)

    async def do_json(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(body=request.query["v"].encode(), content_type="application/json")


@asynccontextmanager
async def hostile_api() -> AsyncIterator[HostileApi]:
    """The API, listening on a free loopback port."""
    api = HostileApi()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.port = runner.addresses[0][1]
    try:
        yield api
    finally:
        api.go.set()
        await runner.cleanup()
