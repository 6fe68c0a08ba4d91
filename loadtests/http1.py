"""The least HTTP/1.1 client that keeps a connection: one POST at a time, a whole reply or its stream. It costs a bench little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping


class Connection:
    """One keep-alive connection to 127.0.0.1. Raises RuntimeError for any status but 200."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        """Connects."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The whole body of a reply that declares its length."""
        head = await self._ask(path, body, headers)
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    async def stream(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Raw bytes of a chunked reply as they come, frames of the chunks included."""
        await self._ask(path, body, headers)
        last = b""
        while not last.endswith(b"0\r\n\r\n"):
            data = await self._reader.read(2**18)
            if not data:
                raise RuntimeError("the server hung up")
            last = (last + data)[-5:]
            yield data

    async def _ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        self._writer.write(head.encode() + body)
        reply = await self._reader.readuntil(b"\r\n\r\n")
        if not reply.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a 200: {reply[:200]!r}")
        return reply
