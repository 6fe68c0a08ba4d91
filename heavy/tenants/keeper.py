"""Keeps this process's key ring at the database's revision, and the snapshot of it in the hot store, which the rule tier follows.

Every heavy process does so: each looks at the database by itself, and whoever is first writes the snapshot. One that was held up on its
way does not undo what is newer (`HotStore.write_version`), and a hot store that was wiped has it again within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from common.contracts.access import Access, encode
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.news import follow_news
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from heavy.tenants.stores import AccessStore

LOOK_SECONDS = 1.0
REFRESH_SECONDS = 20.0  # a third of the snapshot's time to live
log = logging.getLogger(__name__)


class AccessKeeper:
    """The keeper of one process. `secret` signs the snapshot."""

    def __init__(self, store: AccessStore, hotstore: HotStore, ring: KeyRing, secret: bytes, metrics: Metrics) -> None:
        self._store = store
        self._hotstore = hotstore
        self._ring = ring
        self._secret = secret
        self._revision = metrics.access_revision
        self._access: Access | None = None
        self._encoded = b""
        self._written = -REFRESH_SECONDS
        self._looking = asyncio.Lock()  # of two looks at once the slower one must not have the last word

    async def look(self) -> None:
        """Learns what has changed, and says so. Raises DependencyUnavailable when the database is away."""
        async with self._looking:
            if self._access is None or await self._store.revision() != self._access.revision:
                access = await self._store.access()
                self._ring.use(access)
                self._revision.set(access.revision)
                self._access, self._encoded = access, encode(access, self._secret)
                log.info("API keys and limits of the database", extra={"revision": access.revision, "count": len(access.keys)})
            with contextlib.suppress(HotStoreUnavailable):  # who follows it keeps what he knows, and so do we
                await self._share(self._access)

    async def keep(self) -> None:
        """Looks each second, and at once when another process says that something has changed. Runs until cancelled."""
        await follow_news(self._hotstore, keys.ACCESS_NEWS, self.catch_up, LOOK_SECONDS)

    async def catch_up(self) -> None:
        """As `look`; while the database is away everything stays as it is."""
        try:
            await self.look()
        except DependencyUnavailable as e:
            log.warning("API keys and limits stay as they are: %s", e.detail)

    async def _share(self, access: Access) -> None:
        """Writes the snapshot where the hot store has none, an older one, or this one for a while."""
        found = await self._hotstore.read_version(keys.ACCESS, access.revision)
        held = found[0] if found else None
        if held == access.revision and time.monotonic() - self._written < REFRESH_SECONDS:
            return
        if await self._hotstore.write_version(keys.ACCESS, access.revision, self._encoded, keys.ACCESS_TTL):
            self._written = time.monotonic()
            if held != access.revision:
                await self._hotstore.publish(keys.ACCESS_NEWS, b"%d" % access.revision)
