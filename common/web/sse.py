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
        self._sender: asyncio.Task[object] | None = None  # while frames are sent
        self._interrupted = False
        self._timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None

    async def run(self, frames: AsyncIterator[bytes]) -> bool:
        """Sends all frames and ends the reply. False when the client left or stopped reading; `frames` is closed then too."""
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        self._sender = asyncio.current_task()
        gone = asyncio.create_task(self._until_gone())
        gone.add_done_callback(self._interrupt)
        self._beat_again(self._sent)
        try:
            return await self._pump(frames)
        except asyncio.CancelledError:
            if self._interrupted and self._sender is not None and self._sender.uncancel() == 0:
                if not gone.done() and self._cut is not None:
                    self._cut()
                return False
            raise
        finally:
            self._sender = None
            for work in (self._timer, self._beating, gone):
                if work is not None:
                    work.cancel()
            await asyncio.wait([gone])

    def _interrupt(self, _: object = None) -> None:
        """Ends the sending: nobody reads any more."""
        if self._sender is not None and not self._interrupted:
            self._interrupted = True
            self._sender.cancel()

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

    def _beat_again(self, before: int) -> None:
        """A look at the stream when a while has passed: `before` are the frames that were sent by now. A timer, since a task that sleeps is
        2 KB of every open stream."""
        self._timer = asyncio.get_running_loop().call_later(min(self._heartbeat, self._stall), self._beat, before)

    def _beat(self, before: int) -> None:
        """A heartbeat when nothing was sent for a while; the end when a write has hung too long."""
        if self._sending_since is not None:
            if asyncio.get_running_loop().time() - self._sending_since >= self._stall:
                self._interrupt()
                return
        elif self._sent == before and (self._beating is None or self._beating.done()):
            self._beating = asyncio.create_task(self._send_heartbeat())
        self._beat_again(self._sent)

    async def _send_heartbeat(self) -> None:
        try:
            await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
        except OSError:
            self._interrupt()
