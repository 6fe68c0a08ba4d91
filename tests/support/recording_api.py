"""A business API on loopback that remembers what it was asked and answers each path as the test says. It knows nothing of loadsplit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web


@dataclass
class Asked:
    """One request. `body` is its decoded JSON, None without one."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    key: str | None


@dataclass
class RecordingApi:
    """An async context manager. `answers` gives the JSON of a path (`{"ok": true}` where it is not named), a number its status instead;
    requests to a path in `held` wait until `release` is set."""

    answers: dict[str, Any] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    gone: int = 0

    async def __aenter__(self) -> RecordingApi:
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release.set()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append(Asked(request.method, request.path, dict(request.query), body, request.headers.get("Idempotency-Key")))
        if request.path in self.held:
            try:
                await self.release.wait()
            except asyncio.CancelledError:  # the caller has hung up
                self.gone += 1
                raise
        answer = self.answers.get(request.path, {"ok": True})
        if isinstance(answer, int):
            return web.Response(status=answer, text="an internal secret")
        return web.json_response(answer)
