"""For the tests of this folder: a client that calls an ASGI app without a server, a hand-off that remembers, and a business API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import web

from common.contracts.ticket import Ticket, verify
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.asgi import Receive, Scope, Send
from common.workflow.load import load_text
from lightweight.app import create_app
from lightweight.settings import LightweightSettings

SECRET = "a secret of the tests, thirty-two bytes"


@dataclass
class Reply:
    """What an ASGI app sent. `headers` is by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[int, str, Any]]:
        """(id, type, data) of a stream."""
        found = []
        for block in self.body.decode().strip().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            if "id" in lines:
                document = json.loads(lines["data"])
                assert document["type"] == lines["event"]
                found.append((int(lines["id"]), lines["event"], document["data"]))
        return found


async def call(app: Any, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """One request, its body in two pieces as a server may deliver it; the client stays until it is answered."""
    pieces = [b""] if body is None else [body[:7], body[7:]]
    sent: list[Any] = []

    async def receive() -> Any:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "test", **({} if body is None else {"content-type": "application/json"}), **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items() if v],
        "state": {},
    }
    await app(scope, receive, send)
    start = sent[0]
    replied = {k.decode(): v.decode() for k, v in start["headers"]}
    return Reply(start["status"], replied, b"".join(m.get("body", b"") for m in sent[1:]))


@dataclass
class Remembered:
    """A hand-off in process: keeps the tickets, answers 299."""

    mode: str = "local"
    tickets: list[Ticket] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    session_keys: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        self.tickets.append(verify(ticket, SECRET.encode()))
        self.bodies.append(body)
        self.session_keys.append(session_key)
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def aclose(self) -> None:
        pass


@dataclass
class Desk:
    """A running lightweight app and what stands around it."""

    app: Any
    hotstore: HotStore
    handoff: Remembered
    metrics: Metrics

    async def ask(self, message: str, session: str = "s-1", headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """POST /api/v1/query."""
        body = json.dumps({"message": message, "session_id": session, **fields}).encode()
        return await call(self.app, "POST", "/api/v1/query", body, headers)

    async def stream(self, message: str, session: str = "s-1") -> Reply:
        """POST /api/v1/query/stream."""
        return await call(self.app, "POST", "/api/v1/query/stream", json.dumps({"message": message, "session_id": session}).encode())

    @property
    def plan(self) -> Any:
        """The plan of the last hand-off."""
        return self.handoff.tickets[-1].plan

    def unrecorded(self) -> float:
        """The metric of turns that were answered and not recorded."""
        return self.metrics.registry.get_sample_value("loadsplit_unrecorded_turns_total") or 0.0


@asynccontextmanager
async def desk(*workflows: Mapping[str, Any], hotstore: HotStore | None = None, **settings: Any) -> AsyncIterator[Desk]:
    """The app for these workflows, its lifespan entered, without a network of its own but for flows."""
    store = hotstore or MemoryHotStore()
    loaded = [load_text(json.dumps(w)) for w in workflows]
    around = Desk(None, store, Remembered(), Metrics())
    with TemporaryDirectory() as folder:
        around.app = create_app(
            lightweight_settings(**{"data_dir": Path(folder), **settings}),
            workflows={w.agent_id: w for w in loaded},
            hotstore=store,
            handoff=around.handoff,
            metrics=around.metrics,
        )
        try:
            async with around.app.router.lifespan_context(around.app):
                yield around
        finally:
            await store.aclose()


def lightweight_settings(**settings: Any) -> LightweightSettings:
    """Settings that read no environment and write no file."""
    return LightweightSettings.load({"LOADSPLIT_TICKET_SECRET": SECRET}, **settings)


@asynccontextmanager
async def business_api(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The base URL of an HTTP server on loopback that answers every request with `handle`."""
    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
