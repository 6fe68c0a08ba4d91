"""The receiving end of a subscription: a bounded queue that is an async iterator and survives a cancelled wait."""

from __future__ import annotations

import asyncio

LIMIT = 1000


class Inbox:
    """Messages for one subscriber. When it falls 1 000 behind, the oldest go: channels carry hints, never the only copy of anything."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(LIMIT)

    def put(self, message: bytes) -> None:
        """Adds a message, at the price of the oldest one when full."""
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(message)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> bytes:
        return await self._queue.get()
