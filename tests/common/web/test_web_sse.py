"""The SSE writer: order, heartbeat, clients that leave or stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from common.contracts.events import HEARTBEAT, RETRY
from common.web.sse import SSEWriter
from tests.common.web.calls import Sent
from tests.support.waiting import wait_until


class Client:
    """Receives until `leave` is set."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        self.sent = Sent()

    async def receive(self) -> dict[str, Any]:
        await self.leave.wait()
        return {"type": "http.disconnect"}


class Frames:
    """Frames that come when the test says so; knows whether it was closed."""

    def __init__(self, *first: bytes) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False
        for frame in first:
            self.queue.put_nowait(frame)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (frame := await self.queue.get()) is not None:
                yield frame
        finally:
            self.closed = True


async def test_frames_in_order_between_start_and_end() -> None:
    client, frames = Client(), Frames(b"a", b"b")
    frames.queue.put_nowait(None)
    assert await SSEWriter(client.receive, client.sent, headers=[(b"x-a", b"1")]).run(aiter(frames))
    assert client.sent.status == 200
    assert client.sent.headers["content-type"].startswith("text/event-stream")
    assert client.sent.headers["x-a"] == "1"
    assert [m["body"] for m in client.sent.messages[1:]] == [RETRY, b"a", b"b", b""]
    assert client.sent.messages[-1].get("more_body", False) is False
    assert frames.closed


async def test_a_heartbeat_when_it_is_quiet() -> None:
    client, frames = Client(), Frames()
    running = asyncio.ensure_future(SSEWriter(client.receive, client.sent, heartbeat=0.02).run(aiter(frames)))
    await wait_until(lambda: client.sent.body.count(HEARTBEAT) >= 2, "two heartbeats")
    frames.queue.put_nowait(None)
    assert await running


async def test_a_client_that_leaves_closes_the_frames() -> None:
    client, frames = Client(), Frames(b"a")
    running = asyncio.ensure_future(SSEWriter(client.receive, client.sent).run(aiter(frames)))
    await wait_until(lambda: b"a" in client.sent.body, "the first frame")
    client.leave.set()
    assert await running is False
    assert frames.closed


async def test_a_client_that_stops_reading_is_given_up() -> None:
    client, frames, blocked = Client(), Frames(b"a", b"b"), asyncio.Event()

    async def send(message: Any) -> None:
        await client.sent(message)
        if message.get("body") == b"a":
            await blocked.wait()

    cut: list[bool] = []
    writer = SSEWriter(client.receive, send, heartbeat=0.02, stall=0.05, cut=lambda: cut.append(True))
    assert await writer.run(aiter(frames)) is False
    assert cut == [True]
    assert frames.closed
    assert HEARTBEAT not in client.sent.body


async def test_a_closed_connection_ends_it() -> None:
    client, frames = Client(), Frames(b"a")

    async def send(message: Any) -> None:
        if message.get("body"):
            raise OSError("closed")

    assert await SSEWriter(client.receive, send).run(aiter(frames)) is False


async def test_cancelling_leaves_nothing_running() -> None:
    client, frames = Client(), Frames(b"a")
    running = asyncio.ensure_future(SSEWriter(client.receive, client.sent).run(aiter(frames)))
    await wait_until(lambda: b"a" in client.sent.body, "the first frame")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert frames.closed
