"""A worker's line to the process that started it: it says that it serves, what its metrics are, and asks for those of all workers.

Messages are JSON, one a line, over a unix socket in a folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

import orjson

from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics

TELL_SECONDS = 2.0  # how much of its counting a killed worker may take with it
ANSWER_SECONDS = 3.0
LONGEST_LINE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is given by its supervisor: the sockets to listen on (the API's, and the operators' where they have one), and where
    the supervisor hears. `str()` is an argument for a command line, `read` takes it."""

    sockets: tuple[int, ...]
    line: str

    def __str__(self) -> str:
        return f"{','.join(map(str, self.sockets))}:{self.line}"

    @classmethod
    def read(cls, text: str) -> Place:
        """Raises ValueError for what a supervisor would not say."""
        numbers, _, line = text.partition(":")
        return cls(tuple(int(number) for number in numbers.split(",")), line)

    def open(self) -> list[socket.socket]:
        """The sockets."""
        return [socket.socket(fileno=number) for number in self.sockets]


class Sibling:
    """One worker among several. `join` when it serves."""

    def __init__(self, place: Place, metrics: Metrics) -> None:
        self._place, self._metrics = place, metrics
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: list[asyncio.Future[bytes]] = []

    def join(self) -> None:
        """Tells the supervisor that this process serves. In the event loop's thread."""
        self._metrics.of_all_workers = self.page_of_all
        self._task = asyncio.create_task(self._talk())

    async def page_of_all(self) -> bytes:
        """/metrics of all workers. Raises DependencyUnavailable when the supervisor does not answer: the page of one would say that the
        counters went back."""
        answer = asyncio.get_running_loop().create_future()
        if self._writer is None:
            raise DependencyUnavailable("the supervisor of the workers cannot be reached", retry_after=1.0)
        self._asked.append(answer)
        self._tell({"ask": True})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise DependencyUnavailable("the supervisor of the workers does not answer", retry_after=1.0) from None

    async def _talk(self) -> None:
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._place.line, limit=LONGEST_LINE)
        except OSError:
            return  # it is gone, and this process with it in a moment
        telling = asyncio.create_task(self._keep_telling())
        try:
            self._tell({"pid": os.getpid(), "page": self._page()})
            while line := await reader.readline():
                message = orjson.loads(line)
                if "all" in message:
                    self._answer(message["all"].encode())
                else:
                    self._tell({"page": self._page()})
        finally:
            telling.cancel()
            await self._say_goodbye()

    def _answer(self, page: bytes) -> None:
        """One answer for each question, in their order; whoever asked may have given up."""
        if self._asked and not (first := self._asked.pop(0)).done():
            first.set_result(page)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            self._tell({"page": self._page()})

    async def _say_goodbye(self) -> None:
        """The event loop ends here: nothing is counted after this."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with contextlib.suppress(OSError):
            writer.write(orjson.dumps({"page": self._page()}) + b"\n")
            writer.close()
            await writer.wait_closed()

    def _page(self) -> str:
        return self._metrics.render().decode()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(orjson.dumps(message) + b"\n")
