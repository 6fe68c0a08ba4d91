"""Brings news of keys and limits to a ring: a key file that has changed, and the snapshot that heavy keeps in the hot store.

It never takes anything away: while the hot store is away a ring keeps what it knows, and a process that starts then begins with the
snapshot that was last seen on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from pathlib import Path

from common.contracts.access import decode
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
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
            self._take(_read(self._path), "this machine's last snapshot")

    async def follow(self) -> None:
        """Keeps the ring up to date. Runs until cancelled."""
        while True:
            with contextlib.suppress(HotStoreUnavailable):
                async with self._hotstore.subscribe(keys.ACCESS_NEWS) as news:
                    while True:
                        await self._look()
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_SECONDS):
                                await anext(news)
            with contextlib.suppress(HotStoreUnavailable):  # it may be only the channel that fails
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> bool:
        """Takes the snapshot, if it is another one than at the last look. Whether there is one."""
        found = await self._hotstore.read_version(keys.ACCESS, self._seen)
        if found is None:
            return False
        self._seen, data = found
        if data is not None and self._take(data, "the hot store's snapshot"):
            _keep(self._path, data)
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


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        log.warning("%s cannot be read: %s", path, e.strerror)
        return None


def _keep(path: Path, data: bytes) -> None:
    """Puts the whole file in the place of the former one, readable by its owner only. Without a place to write to it is not kept."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(data)
        draft.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        log.warning("the API keys are not kept for the next start: %s: %s", path, e.strerror)
