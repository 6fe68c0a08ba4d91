"""The supervisor's end of the workers' lines: which of them serve, and one /metrics page of all, those that have ended included."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, generate_latest

from common.telemetry.merged import Page
from common.web.siblings import LONGEST_LINE

FRESH_SECONDS = 1.0  # a worker that is busy for longer is counted as it last said


class _Line:
    """One worker's connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.pid: int | None = None
        self.page = ""
        self.news = asyncio.Event()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message."""
        self.writer.write(orjson.dumps(message) + b"\n")

    async def fresh(self) -> None:
        """Asks for its page, and waits a moment for it."""
        self.news.clear()
        self.tell({"page": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRESH_SECONDS):
                await self.news.wait()


class WorkerPages:
    """The lines. `restarts` is how often a worker had to be started again."""

    def __init__(self) -> None:
        self.restarts = 0
        self._lines: set[_Line] = set()
        self._ended = Page({})
        self._asking: set[asyncio.Task[None]] = set()

    async def listen(self, path: str) -> asyncio.Server:
        """A server for the workers at this path."""
        return await asyncio.start_unix_server(self._hear, path, limit=LONGEST_LINE)

    def serves(self, pid: int | None) -> bool:
        """Whether the process has said so, and lives."""
        return any(line.pid == pid for line in self._lines)

    async def page_of_all(self) -> bytes:
        """What all have counted by now."""
        await asyncio.gather(*(line.fresh() for line in self._lines))
        pages = [Page.read(line.page) for line in self._lines]
        return Page.together([*pages, self._ended, Page.read(self._own())]).render()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self._lines.add(line)
        try:
            with contextlib.suppress(OSError):  # it was killed
                while text := await reader.readline():
                    self._heard(line, text)
        finally:
            self._lines.discard(line)
            line.news.set()
            if line.page:
                self._ended = Page.together([self._ended, Page.read(line.page).what_stays()])
            writer.close()

    def _heard(self, line: _Line, text: bytes) -> None:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            return  # the last words of one that was killed
        line.pid = message.get("pid", line.pid)
        if "page" in message:
            line.page = message["page"]
            line.news.set()
        if "ask" in message:
            task = asyncio.create_task(self._answer(line))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _answer(self, line: _Line) -> None:
        page = await self.page_of_all()
        line.tell({"all": page.decode()})

    def _own(self) -> str:
        registry = CollectorRegistry()
        Counter("loadsplit_worker_restarts", "", registry=registry).inc(self.restarts)
        return generate_latest(registry).decode()
