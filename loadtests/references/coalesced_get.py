"""The least Redis client that coalesces: all GETs of one event-loop tick leave in one write. For references only."""

from __future__ import annotations

import asyncio
from collections import deque


class CoalescedGet:
    """One connection, opened by the first GET. `address` is host:port. It has no time-outs, and no way back from an error."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port or 6379)
        self._writer: asyncio.StreamWriter | None = None
        self._opening = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[bytes | None]] = deque()
        self._out: list[bytes] = []

    async def get(self, key: str) -> bytes | None:
        """The value, None without one."""
        if self._writer is None:
            await self._open()
        loop = asyncio.get_running_loop()
        if not self._out:
            loop.call_soon(self._flush)
        name = key.encode()
        self._out.append(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name))
        reply: asyncio.Future[bytes | None] = loop.create_future()
        self._waiting.append(reply)
        return await reply

    async def _open(self) -> None:
        async with self._opening:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(self._host, self._port)
                self._reading = asyncio.create_task(self._read(reader))

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.write(b"".join(self._out))
        self._out.clear()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(65536):
            rest += data
            while (end := rest.find(b"\r\n")) >= 0:
                size = int(rest[1:end])
                value_end = end + 2 + size
                if size >= 0 and len(rest) < value_end + 2:
                    break
                self._waiting.popleft().set_result(rest[end + 2 : value_end] if size >= 0 else None)
                rest = rest[value_end + 2 :] if size >= 0 else rest[end + 2 :]
