"""Writes server-sent events to a client: the retry line, frames as they come, a heartbeat when it is quiet, and an end when nobody reads.

It knows nothing of turns: frames are bytes that `common.contracts.events.frame` made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from common.contracts.events import HEARTBEAT, HEARTBEAT_SECONDS, RETRY
from common.web.asgi import Receive, Send

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
# In the scope where the server can do it: a callable that ends the connection without a flush.
CUT = "loadsplit.cut"
# A client that takes nothing for this long is gone for all that matters; its turn goes on and can be resumed.
STALL_SECONDS = 60.0


class SSEWriter:
    """One stream to one client. The request's body must have been read: what `receive` says from then on is the disconnect. `cut` ends
    the connection of a client that takes nothing any more; `opening` goes before all frames."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        cut: Callable[[], None] | None = None,
        opening: bytes = RETRY,
        heartbeat: float = HEARTBEAT_SECONDS,
        stall: float = STALL_SECONDS,
    ) -> None:
        self._receive, self._send = receive, send
        self._headers = [*HEADERS, *headers]
        self._cut = cut
        self._opening = opening
        self._heartbeat, self._stall = heartbeat, stall
        self._sent = 0  # counts frames, so that the heartbeat knows whether it was quiet
        self._sending_since: float | None = None

    async def run(self, frames: AsyncIterator[bytes]) -> bool:
        """Sends all frames and ends the reply. False when the client left or stopped reading; `frames` is closed then too."""
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        pump = asyncio.create_task(self._pump(frames))
        gone = asyncio.create_task(self._until_gone())
        pulse = asyncio.create_task(self._pulse())
        try:
            await asyncio.wait({pump, gone, pulse}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                return pump.result()
            if not gone.done() and self._cut is not None:
                self._cut()
            return False
        finally:
            for task in (pump, gone, pulse):
                task.cancel()
            await asyncio.gather(pump, gone, pulse, return_exceptions=True)

    async def _pump(self, frames: AsyncIterator[bytes]) -> bool:
        try:
            if self._opening:
                await self._write(self._opening)
            async for frame in frames:
                await self._write(frame)
            await self._send({"type": "http.response.body", "body": b""})
            return True
        except OSError:  # the server says so when it writes to a closed connection
            return False
        finally:
            if (close := getattr(frames, "aclose", None)) is not None:
                await close()

    async def _write(self, data: bytes) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending_since = None
        self._sent += 1

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pulse(self) -> None:
        """A heartbeat when nothing was sent for a while; returns when a write has hung too long."""
        loop = asyncio.get_running_loop()
        while True:
            before = self._sent
            await asyncio.sleep(min(self._heartbeat, self._stall))
            if self._sending_since is not None:
                if loop.time() - self._sending_since >= self._stall:
                    return
            elif self._sent == before:
                try:
                    await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
                except OSError:
                    return
