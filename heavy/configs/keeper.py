"""Keeps this process at the database's versions, and the manifest and texts of them in the hot store, which the rule tier follows.

Every heavy process does so: each looks at the database by itself, and whoever is first writes. A hot store that was wiped has everything
again within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from common.contracts.rollout import Manifest, encode, pack
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.news import follow_news
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.centre_source import CentreSource
from common.workflow.patterns import PatternCheck
from common.workflow.rollout import Rollout, Unusable
from common.workflow.shelf import Shelf
from heavy.configs.stores import ConfigStore

LOOK_SECONDS = 1.0
REFRESH_SECONDS = 20.0  # a third of the manifest's time to live
TEXTS_SECONDS = keys.CONFIG_TTL / 3
AT_ONCE = 20  # texts that are written at the same time
log = logging.getLogger(__name__)


class CentreKeeper(CentreSource):
    """The source of workflows of one heavy process. `secret` signs the manifest; versions that were read are kept on the shelf."""

    def __init__(
        self,
        store: ConfigStore,
        hotstore: HotStore,
        secret: bytes,
        shelf: Shelf,
        env: dict[str, str],
        check: PatternCheck,
        metrics: Metrics,
    ) -> None:
        super().__init__(shelf, env, check, metrics)
        self._store = store
        self._hotstore = hotstore
        self._secret = secret
        self._manifest: Manifest | None = None
        self._shared: set[str] = set()
        self._written = self._texts_written = -TEXTS_SECONDS
        self._looking = asyncio.Lock()  # of two looks at once the slower one must not have the last word

    async def fetch(self, agent_id: str, config_hash: str) -> bytes:
        """The text from the database."""
        data = await self._text(agent_id, config_hash)
        if data is None:
            raise Unusable(f"the config centre has no version {config_hash} of {agent_id!r}")
        return data

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """Brings into force what the database says. Raises DependencyUnavailable."""
        self.rollouts = rollouts
        await self.look()

    async def look(self) -> None:
        """Learns what has changed, and says so. Raises DependencyUnavailable when the database is away."""
        async with self._looking:
            if self._manifest is None or await self._store.revision() != self._manifest.revision:
                manifest = await self._store.manifest()
                with contextlib.suppress(HotStoreUnavailable):  # who follows it keeps what he knows; he compiles while we do
                    await self._share(manifest)
                if await self.apply(manifest):
                    self._manifest = manifest
            else:
                with contextlib.suppress(HotStoreUnavailable):
                    await self._share(self._manifest)

    async def catch_up(self) -> None:
        """As `look`; while the database is away everything stays as it is."""
        try:
            await self.look()
        except DependencyUnavailable as e:
            log.warning("agents stay as they are: %s", e.detail)

    async def follow(self) -> None:
        """Looks each second, and at once when another process says that something has changed. Runs until cancelled."""
        await follow_news(self._hotstore, keys.CONFIGS_NEWS, self.catch_up, LOOK_SECONDS)

    async def serve_texts(self) -> None:
        """Brings texts again that somebody misses in the hot store. Runs until cancelled."""
        while True:
            with contextlib.suppress(DependencyUnavailable):
                async with self._hotstore.subscribe(keys.CONFIGS_WANTED) as wanted:
                    async for message in wanted:
                        config_hash = message.decode("ascii", "replace")
                        agents = self._manifest.agents.items() if self._manifest else ()
                        if agent_id := next((i for i, s in agents if config_hash in (s.active, s.canary, s.previous)), None):
                            await self._write_text(agent_id, config_hash)
            await asyncio.sleep(LOOK_SECONDS)

    async def _share(self, manifest: Manifest) -> None:
        """Writes texts and manifest where the hot store has none, an older one, or this one for a while."""
        found = await self._hotstore.read_version(keys.CONFIGS, manifest.revision)
        held, now = found[0] if found else None, time.monotonic()
        if held is None or now - self._texts_written >= TEXTS_SECONDS:  # it was wiped, or they are to be kept alive
            self._shared.clear()
            self._texts_written = now
        wanted = {h: i for i, s in manifest.agents.items() for h in (s.previous, s.canary, s.active) if h and h not in self._shared}
        missing = list(wanted.items())
        for at in range(0, len(missing), AT_ONCE):
            await asyncio.gather(*(self._write_text(agent_id, config_hash) for config_hash, agent_id in missing[at : at + AT_ONCE]))
        if held == manifest.revision and now - self._written < REFRESH_SECONDS:
            return
        if await self._hotstore.write_version(keys.CONFIGS, manifest.revision, encode(manifest, self._secret), keys.CONFIGS_TTL):
            self._written = now
            if held != manifest.revision:
                await self._hotstore.publish(keys.CONFIGS_NEWS, b"%d" % manifest.revision)

    async def _write_text(self, agent_id: str, config_hash: str) -> None:
        data = await asyncio.to_thread(self.shelf.text, config_hash) or await self._text(agent_id, config_hash)
        if data is not None:
            await self._hotstore.set(keys.config(config_hash), data, keys.CONFIG_TTL)
            self._shared.add(config_hash)

    async def _text(self, agent_id: str, config_hash: str) -> bytes | None:
        row = await self._store.of_hash(agent_id, config_hash)
        return None if row is None else pack(row.form, row.text)
