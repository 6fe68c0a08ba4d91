"""All subscriptions of a process over one redis-py PubSub, made again after it breaks. It knows channels and bytes, not what they say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from common.hotstore.coalesce import TIMEOUT, reason_of
from common.hotstore.inbox import Inbox
from common.hotstore.protocol import HotStoreUnavailable

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
KEEPALIVE_SECONDS = 5.0


class Subscriptions:
    """Connects with the first subscription and stays connected until `aclose`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channels: dict[str, set[Inbox]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None  # None while not connected
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Messages of a channel. Raises HotStoreUnavailable when Redis does not confirm it within 300 ms."""
        if self._closed:
            raise HotStoreUnavailable("the hot store is closed")
        inbox = Inbox()
        first = channel not in self._channels
        if first:
            self._channels[channel] = set()
            self._confirmed[channel] = asyncio.Event()
        self._channels[channel].add(inbox)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        try:
            try:
                async with asyncio.timeout(TIMEOUT):
                    if first:
                        await self._tell(channel, wanted=True)
                    await self._confirmed[channel].wait()
            except TimeoutError:
                raise HotStoreUnavailable("the hot store is away") from None
            yield inbox
        finally:
            listeners = self._channels[channel]
            listeners.discard(inbox)
            if not listeners:
                del self._channels[channel], self._confirmed[channel]
                await self._tell(channel, wanted=False)

    async def aclose(self) -> None:
        """Ends the connection."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _tell(self, channel: str, *, wanted: bool) -> None:
        """Subscribes or unsubscribes; without a connection that is the keeper's, as soon as it has one."""
        pubsub = self._pubsub
        if pubsub is None:
            return
        try:
            await (pubsub.subscribe(channel) if wanted else pubsub.unsubscribe(channel))
        except (OSError, RedisError):
            self._pubsub = None  # broken: the keeper is about to notice, too, and begins anew

    async def _keep(self) -> None:
        """Keeps the connection: makes it, subscribes to all channels, gives out the messages, and again when it breaks."""
        while True:
            pubsub = self._redis.pubsub()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await pubsub.connect()
                self._pubsub = pubsub
                if self._channels:
                    await pubsub.subscribe(*self._channels)
                await self._listen(pubsub)
            except (OSError, RedisError) as e:
                log.warning("subscriptions are interrupted: %s", reason_of(e))
            finally:
                self._pubsub = None
                for event in self._confirmed.values():
                    event.clear()
                await pubsub.aclose()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, pubsub: PubSub) -> None:
        """Gives out messages until the connection breaks, or is silent for two intervals though it was asked for a sign of life."""
        asked = False
        while True:
            message = await pubsub.get_message(timeout=KEEPALIVE_SECONDS)
            if message is None:
                if asked:
                    raise TimeoutError("Redis gives no sign of life")
                asked = True
                await pubsub.ping()
                continue
            asked = False
            if message["type"] == "message":
                for inbox in self._channels.get(message["channel"].decode(), ()):
                    inbox.put(message["data"])
            elif message["type"] == "subscribe":
                event = self._confirmed.get(message["channel"].decode())
                if event is not None:
                    event.set()
