"""How many streams each tenant holds open, over all replicas: server-sent events of turns and sessions, and WebSockets.

Every stream is a member of its tenant's group in the hot store; this process keeps its own members in, and those of a process that died are
out after half a minute. Without the hot store each process counts its own streams. A stream whose key is revoked or expires is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from common.errors import RateLimited, Unauthorized
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from common.web.rate import beyond

LOOK_SECONDS = 0.5
STAY_SECONDS = 10.0
AT_ONCE = 500
RETRY_AFTER = 5.0  # nobody knows when one will be closed

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(eq=False, slots=True)
class OpenStream:
    """One stream. `headers` have the key that it was opened with, None where a ticket opened it; `revoked` says that it was ended because
    that key does not hold any more."""

    member: str
    headers: Headers | None
    limit: asyncio.Timeout
    revoked: bool = False


class OpenStreams:
    """The streams of one process."""

    def __init__(self, hotstore: HotStore, ring: KeyRing, metrics: Metrics) -> None:
        self._hotstore = hotstore
        self._ring = ring
        self._refused = metrics.quota_refusals_total.labels("open_streams")
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._open: dict[str, dict[str, OpenStream]] = {}

    @contextlib.asynccontextmanager
    async def one(self, tenant: str, headers: Headers | None = None) -> AsyncIterator[OpenStream]:
        """While inside, the tenant has one more open stream; what is inside is left at once when the key in `headers` is revoked. Raises
        RateLimited when it is one too many."""
        limit, member = self._ring.limits_of(tenant).open_streams, f"{self._process}.{next(self._numbers):x}"
        try:
            entered = await self._hotstore.enter(keys.streams(tenant), member, limit, keys.STREAMS_TTL)
        except HotStoreUnavailable:
            entered = len(self._open.get(tenant, ())) < limit
        if not entered:
            self._refused.inc()
            detail = f"this tenant may hold {limit} streams open"
            raise RateLimited(**beyond("open_streams", limit, limit, detail, RETRY_AFTER))
        stream = OpenStream(member, headers, asyncio.timeout(None))
        try:
            async with stream.limit:
                self._open.setdefault(tenant, {})[member] = stream
                yield stream
        except TimeoutError:
            if not stream.revoked:
                raise
        finally:
            del self._open[tenant][member]
            if not self._open[tenant]:
                del self._open[tenant]
            with contextlib.suppress(HotStoreUnavailable):  # then it is out after a while
                await self._hotstore.leave(keys.streams(tenant), member)

    async def keep(self) -> None:
        """Keeps this process's streams in their groups, and ends those whose key does not hold any more. Runs until cancelled."""
        ring, stay_at = self._ring.state, time.monotonic() + STAY_SECONDS
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            due = time.monotonic() >= stay_at
            if due or self._ring.state is not ring:
                ring = self._ring.state
                self._end_revoked()
            if due:
                stay_at = time.monotonic() + STAY_SECONDS
                await self._stay()

    def _end_revoked(self) -> None:
        for streams in self._open.values():
            for stream in streams.values():
                try:
                    if stream.headers is not None:
                        self._ring.authenticate(stream.headers)
                except Unauthorized:
                    if not stream.revoked:
                        stream.revoked = True
                        stream.limit.reschedule(asyncio.get_running_loop().time())

    async def _stay(self) -> None:
        for tenant in list(self._open):
            members = list(self._open.get(tenant, ()))
            for i in range(0, len(members), AT_ONCE):
                still = [m for m in members[i : i + AT_ONCE] if m in self._open.get(tenant, ())]
                with contextlib.suppress(HotStoreUnavailable):
                    await self._hotstore.stay(keys.streams(tenant), still, keys.STREAMS_TTL)
