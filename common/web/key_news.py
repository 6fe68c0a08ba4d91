"""Brings news of keys and limits to a ring: a key file that has changed, and the snapshot that heavy keeps in the hot store.

It never takes anything away: while the hot store is away a ring keeps what it knows, and a process that starts then begins with the
snapshot that was last seen on this machine.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from common.contracts.access import decode
from common.hotstore import keys
from common.hotstore.news import follow_news
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.kept import keep, read_kept
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing

FILE_NAME = "access.snapshot"
LOOK_SECONDS = 0.5  # how often the snapshot's revision is asked for where no news comes by the channel
FILE_SECONDS = 1.0
log = logging.getLogger(__name__)


async def watch_file(ring: KeyRing) -> None:
    """Rereads the ring's key file when it changes. Runs until cancelled."""
    while True:
        await asyncio.sleep(FILE_SECONDS)
        if ring.reread():
            log.info("the key file has changed and is in force")


class KeyNews:
    """Follows the snapshot in the hot store. `folder` is where the last one is kept for the next start."""

    def __init__(self, ring: KeyRing, hotstore: HotStore, secret: bytes, folder: Path, metrics: Metrics) -> None:
        self._ring = ring
        self._hotstore = hotstore
        self._secret = secret
        self._path = folder / FILE_NAME
        self._revision = metrics.access_revision
        self._seen: int | None = None

    async def begin(self) -> None:
        """Learns what there is before the first request: from the hot store, else from this machine."""
        try:
            there = await self._look()
        except HotStoreUnavailable:
            there = False
        if not there:
            self._take(read_kept(self._path), "this machine's last snapshot")

    async def follow(self) -> None:
        """Keeps the ring up to date. Runs until cancelled."""
        await follow_news(self._hotstore, keys.ACCESS_NEWS, self._look, LOOK_SECONDS)

    async def _look(self) -> bool:
        """Takes the snapshot, if it is another one than at the last look. Whether there is one."""
        found = await self._hotstore.read_version(keys.ACCESS, self._seen)
        if found is None:
            return False
        self._seen, data = found
        if data is not None and self._take(data, "the hot store's snapshot"):
            try:
                keep(self._path, data)
            except OSError as e:
                log.warning("the API keys are not kept for the next start: %s: %s", self._path, e.strerror)
        return True

    def _take(self, data: bytes | None, what: str) -> bool:
        access = decode(data, self._secret) if data else None
        if access is None:
            if data:
                log.error("%s is not signed with this LOADSPLIT_TICKET_SECRET, and is not used", what)
            return False
        self._ring.use(access)
        self._revision.set(access.revision)
        log.info("API keys and limits are those of %s", what, extra={"revision": access.revision, "count": len(access.keys)})
        return True
