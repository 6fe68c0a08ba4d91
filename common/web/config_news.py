"""Follows the config centre through the hot store, as the rule tier does, which has no database. It never takes anything away: while the
hot store is away a process serves what it knows, and one that starts then begins with what this machine has kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.contracts.rollout import decode
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.news import follow_news
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.centre_source import CentreSource
from common.workflow.patterns import PatternCheck
from common.workflow.rollout import Rollout
from common.workflow.shelf import FOLDER, Shelf

LOOK_SECONDS = 0.5  # how often the revision is asked for where no news comes by the channel
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # for a text that heavy is asked to bring again
log = logging.getLogger(__name__)


class ConfigNews(CentreSource):
    """The follower of one process. `secret` is that which heavy signs with."""

    def __init__(
        self, hotstore: HotStore, secret: bytes, data_dir: Path, env: Mapping[str, str], check_pattern: PatternCheck, metrics: Metrics
    ) -> None:
        super().__init__(Shelf(data_dir / FOLDER), env, check_pattern, metrics)
        self._hotstore = hotstore
        self._secret = secret
        self._seen: int | None = None

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """Learns what is in force: from the hot store, else from this machine."""
        self.rollouts = rollouts
        try:
            there = await self._look()
        except HotStoreUnavailable:
            there = False
        if not there:
            kept = self.shelf.manifest()
            manifest = decode(kept, self._secret) if kept else None
            if manifest is not None:
                log.warning("the config centre is out of reach: this machine's last versions serve")
                await self.apply(manifest)

    async def follow(self) -> None:
        """Keeps the agents up to date. Runs until cancelled."""
        await follow_news(self._hotstore, keys.CONFIGS_NEWS, self._look, LOOK_SECONDS)

    async def _look(self) -> bool:
        """Takes the manifest, if it is another one than at the last look. Whether there is one."""
        found = await self._hotstore.read_version(keys.CONFIGS, self._seen)
        if found is None:
            return False
        revision, data = found
        if data is None:
            return True
        manifest = decode(data, self._secret)
        if manifest is None:
            log.error("the manifest in the hot store is not signed with this LOADSPLIT_TICKET_SECRET, and is not used")
            self._seen = revision
            return False
        if await self.apply(manifest):
            self._seen = revision
            hashes = {h for s in manifest.agents.values() for h in (s.active, s.canary, s.previous) if h}
            await asyncio.to_thread(self.shelf.keep_manifest, data, hashes)
        return True

    async def fetch(self, agent_id: str, config_hash: str) -> bytes:
        """The text from the hot store; heavy is asked to bring one that is not there any more."""
        key = keys.config(config_hash)
        for wait in (*WAITS, 0):
            data = await self._hotstore.get(key)
            if data is not None:
                return data
            await self._hotstore.publish(keys.CONFIGS_WANTED, config_hash.encode())
            await asyncio.sleep(wait)
        raise DependencyUnavailable(f"the text of the version {config_hash} cannot be had now", retry_after=1)
