"""Fake tiers behind a real Nginx: real HTTP servers that tell what reached them. They know nothing of rules or LLMs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.support.services import free_port

Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


async def echo(name: str, request: web.Request, body: bytes) -> web.Response:
    """What reached an upstream, as JSON."""
    headers = {k.lower(): v for k, v in request.headers.items()}
    seen = {"who": name, "method": request.method, "path": request.path_qs, "headers": headers, "body": body.decode()}
    return web.json_response(seen, headers={"X-Loadsplit-Tier": name.split("-")[0], "X-Loadsplit-Config": "abc"})


@dataclass
class FakeTier:
    """One replica. `handle` may be replaced at any time; `requests` are all that came, `running` those without an answer yet."""

    name: str
    port: int = field(default_factory=free_port)
    handle: Handler | None = None
    requests: list[web.BaseRequest] = field(default_factory=list)
    running: int = 0
    _runner: web.ServerRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """The port refuses connections, running ones are cut: what a killed process looks like."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        self.running += 1
        try:
            body = await request.content.read()  # `request.read` has a limit of its own
            return await (self.handle(request, body) if self.handle else echo(self.name, request, body))  # type: ignore[arg-type]
        finally:
            self.running -= 1


async def hand_off(request: web.Request, body: bytes) -> web.Response:
    """What lightweight does with a query that needs an LLM; the session is the body's."""
    session = json.loads(body)["session_id"]
    headers = {
        "X-Accel-Redirect": "@heavy",
        "X-Loadsplit-Ticket": "v1.real.ticket",
        "X-Loadsplit-Session": f"acme/{session}",
        "X-Loadsplit-Tier": "lightweight",
    }
    return web.Response(headers=headers)


@dataclass
class Front:
    """Nginx, its tiers, and a client."""

    url: str
    folder: Path
    lightweight: list[FakeTier]
    heavy: list[FakeTier]
    http: aiohttp.ClientSession
    process: asyncio.subprocess.Process

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (None where it is none) and headers with lower-case names."""
        async with self.http.request(method, self.url + path, **more) as reply:
            data = await reply.read()
            headers = {k.lower(): v for k, v in reply.headers.items()}
            return reply.status, json.loads(data) if "json" in headers.get("content-type", "") else None, headers

    async def query(self, session: str, *, path: str = "/api/v1/query", **more: Any) -> tuple[int, Any, dict[str, str]]:
        """POSTs a query of this session."""
        return await self.call("POST", path, json={"message": "Wo ist es? \u00fc", "session_id": session}, **more)

    def access_log(self) -> list[dict[str, Any]]:
        """The lines written so far."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]


StartFront = Callable[..., Awaitable[Front]]
