"""Follows a state in the hot store whose changes are told on a channel: looks at once when there is news, and now and then anyway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from common.hotstore.protocol import HotStore, HotStoreUnavailable


async def follow_news(hotstore: HotStore, channel: str, look: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Calls `look` with each message and every so many seconds. Runs until cancelled; that the hot store is away is borne, whoever finds
    it so."""
    while True:
        with contextlib.suppress(HotStoreUnavailable):
            async with hotstore.subscribe(channel) as news:
                while True:
                    await look()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await anext(news)
        with contextlib.suppress(HotStoreUnavailable):  # it may be only the channel that fails
            await look()
        await asyncio.sleep(seconds)
