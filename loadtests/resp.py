"""A Redis seen from outside, in a few lines of its protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/): what it holds,
and when it was away. The driver of the product stays behind its fence; a test that used it would share its faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

SILENCE = 0.25  # seconds without a reply from which on a store counts as away: the product waits 0.3
PROBE_PAUSE = 0.05


class RedisError(Exception):
    """Redis answered with an error, or not at all."""


class Redis:
    """One connection, one command at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def call(self, *words: str | int) -> Any:
        """A command's reply. Raises RedisError, OSError."""
        parts = [str(word).encode() for word in words]
        self._writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        await self._writer.drain()
        return await self._reply()

    async def _reply(self) -> Any:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else (await self._reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [await self._reply() for _ in range(int(rest))]
        return rest


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Redis]:
    """A connection to the Redis at that port of the loopback interface. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Redis(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def keys_for_ever(port: int) -> list[str]:
    """Every key that has no time to live."""
    found, cursor = [], b"0"
    async with connected(port) as redis:
        while True:
            cursor, names = await redis.call("SCAN", cursor.decode(), "COUNT", 1000)
            found += [name.decode() for name in names if await redis.call("TTL", name.decode()) == -1]
            if cursor == b"0":
                return sorted(set(found))


class Watch:
    """Asks a Redis all the time, and notes when it did not answer as quickly as its users need it."""

    def __init__(self, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._port, self._clock = port, clock
        self.away: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        since: float | None = None
        while True:
            asked = self._clock()
            try:
                async with connected(self._port) as redis:
                    while True:
                        asked = self._clock()
                        async with asyncio.timeout(SILENCE):
                            await redis.call("PING")
                        if since is not None:
                            self.away.append((since, self._clock()))
                            since = None
                        await asyncio.sleep(PROBE_PAUSE)
            except (OSError, EOFError, RedisError, TimeoutError):
                since = asked if since is None else since
                await asyncio.sleep(PROBE_PAUSE)
