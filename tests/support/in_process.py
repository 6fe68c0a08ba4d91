"""Both tiers in the test's own process and event loop, under a real uvicorn: for tests of routes, which need HTTP but no processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvicorn

from common.web.config_source import DATABASE
from common.web.middleware import InFlight
from heavy.routes.state import Heavy
from heavy.settings import HeavySettings
from standalone.serve import create_app
from tests.support.waiting import wait_until


class Events:
    """An open stream of a session's events; `next` gives one as (id, type, data)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[int, str, Any]:
        """The next event, in at most five seconds."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(5):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    raise EOFError("the stream has ended")
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "" and "data" in fields:
                    document = json.loads(fields["data"])
                    assert document["type"] == fields["event"]
                    return int(fields["id"]), fields["event"], document["data"]
                if name:
                    fields[name] = value


class InProcess:
    """A running loadsplit. `heavy` is what its routes work with."""

    def __init__(self, url: str, http: aiohttp.ClientSession, heavy: Heavy, inflight: InFlight) -> None:
        self.url, self.http, self.heavy, self.inflight = url, http, heavy, inflight

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Status and JSON of one request."""
        given = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with self.http.request(method, self.url + path, **given, **more) as reply:
            return reply.status, orjson.loads(await reply.read())

    async def ask(self, message: str, session: str = "s1", **fields: Any) -> Any:
        """The reply to one message."""
        status, reply = await self.call("POST", "/api/v1/query", {"message": message, "session_id": session, **fields})
        assert status == 200, reply
        return reply

    @asynccontextmanager
    async def events(self, session: str = "s1", **more: Any) -> AsyncIterator[Events]:
        """The session's events, followed."""
        async with self.http.get(f"{self.url}/api/v1/session/{session}/events", **more) as response:
            assert response.status == 200
            yield Events(response)


@asynccontextmanager
async def in_process(workflow: Mapping[str, Any] | None, folder: Path, **env: str) -> AsyncIterator[InProcess]:
    """Serves a workflow, or without one the config centre; `env` are further settings without their prefix, in lower case."""
    config = folder / "workflow.json" if workflow is not None else DATABASE
    if isinstance(config, Path):
        config.write_text(json.dumps(workflow))
    environ = {f"LOADSPLIT_{name.upper()}": value for name, value in env.items()}
    inflight = InFlight()
    app = create_app(HeavySettings.load(environ, config=str(config), data_dir=folder), inflight=inflight)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve([sock]))
        await wait_until(lambda: server.started or running.done(), "the server has started")
        assert server.started, app.state
        try:
            async with aiohttp.ClientSession() as http:
                heavy = server.lifespan.state["heavy"]
                yield InProcess(f"http://127.0.0.1:{sock.getsockname()[1]}", http, heavy, inflight)
        finally:
            inflight.drain()
            server.should_exit = True
            await running
