"""A PostgreSQL seen through a meter: a proxy that counts the statements on their way and times each until the server is ready again.

It reads the frontend/backend protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html) just as far as that needs:
Parse, Bind, Execute, Query on the way there, ReadyForQuery on the way back. The time is the server's, its commit and one trip included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

PREPARE = "(prepare)"
BEFORE_LOGIN = frozenset({80877103, 80877104})  # SSLRequest, GSSENCRequest: answered with one byte


class Meter:
    """What went through, by the text of the statement: how often, and how many seconds in all."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)

    def note(self, statements: list[str], seconds: float) -> None:
        """One trip that executed these statements."""
        for statement in statements or [PREPARE]:
            self.calls[statement] += 1
            self.seconds[statement] += seconds / max(1, len(statements))


class _Connection:
    """The statements of one connection and the trips that are under way."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._executed: list[str] = []
        self._began: float | None = None
        self._trips: deque[tuple[list[str], float]] = deque()

    def sent(self, kind: bytes, body: bytes) -> None:
        """A message of the client."""
        self._began = self._began or time.perf_counter()
        if kind == b"P":
            name, query, _ = body.split(b"\0", 2)
            self._prepared[name] = query.decode()
        elif kind == b"B":
            portal, statement, _ = body.split(b"\0", 2)
            self._portals[portal] = self._prepared.get(statement, "?")
        elif kind == b"E":
            self._executed.append(self._portals.get(body.partition(b"\0")[0], "?"))
        elif kind == b"Q":
            self._executed.append(body.rstrip(b"\0").decode())
        if kind in (b"Q", b"S"):
            self._trips.append((self._executed, self._began))
            self._executed, self._began = [], None

    def ready(self) -> None:
        """The server is ready again."""
        if self._trips:
            statements, began = self._trips.popleft()
            self._meter.note(statements, time.perf_counter() - began)


@contextlib.asynccontextmanager
async def metered(server_port: int, port: int) -> AsyncIterator[Meter]:
    """A proxy at `port` in front of the server, both on loopback. Connect to it with `sslmode=disable`."""
    meter = Meter()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(meter)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", server_port)
        writers.update((writer, upstream_writer))
        try:
            await _login(reader, upstream_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(_there(reader, upstream_writer, connection))
                both.create_task(_back(upstream_reader, writer, connection))
        except* (OSError, EOFError) as closed:  # by one side
            log.debug("a connection has ended: %s", closed.exceptions)
        finally:
            writers.difference_update((writer, upstream_writer))
            writer.close()
            upstream_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield meter
    finally:
        server.close()
        for writer in list(writers):
            writer.close()


async def _login(reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
    """The start-up message has no type byte."""
    while True:
        head = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack("!I", head)[0] - 4)
        upstream.write(head + body)
        if struct.unpack("!I", body[:4])[0] not in BEFORE_LOGIN:
            return


async def _there(reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, connection: _Connection) -> None:
    while True:
        head = await reader.readexactly(5)
        body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        connection.sent(head[:1], body)
        upstream.write(head + body)
        await upstream.drain()


async def _back(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection) -> None:
    while True:
        head = await upstream.readexactly(5)
        body = await upstream.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] == b"Z":
            connection.ready()
        writer.write(head + body)
        await writer.drain()
