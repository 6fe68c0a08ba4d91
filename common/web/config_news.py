"""Follows the config centre through the hot store, as the rule tier does, which has no database. It never takes anything away: while the
hot store is away a process serves what it knows, and one that starts then begins with what this machine has kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.contracts.rollout import Manifest, decode, unpack
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.workflow.patterns import PatternCheck
from common.workflow.rollout import Rollout, Unusable, workflow_of
from common.workflow.schema import Workflow
from common.workflow.shelf import FOLDER, Shelf

LOOK_SECONDS = 0.5  # how often the revision is asked for where no news comes by the channel
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # for a text that heavy is asked to bring again
EMPTY = "no agent is in force yet: `loadsplit config push FILE`, then `loadsplit config activate`"
log = logging.getLogger(__name__)


class ConfigNews:
    """The follower of one process. `secret` is that which heavy signs with."""

    public_only = True

    def __init__(
        self, hotstore: HotStore, secret: bytes, data_dir: Path, env: Mapping[str, str], check_pattern: PatternCheck, metrics: Metrics
    ) -> None:
        self._hotstore = hotstore
        self._secret = secret
        self._shelf = Shelf(data_dir / FOLDER)
        self._env, self._check_pattern = env, check_pattern
        self._revision, self._refused = metrics.config_revision, metrics.config_refused
        self._rollouts: tuple[Rollout[Any], ...] = ()
        self._seen: int | None = None

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        """A version's workflow, its text from this machine or from the hot store."""
        data = await asyncio.to_thread(self._shelf.text, config_hash)
        if data is not None:
            with contextlib.suppress(Unusable):  # a damaged copy is brought again
                return await self._workflow(agent_id, config_hash, data)
        data = await self._fetch(config_hash)
        brought = await self._workflow(agent_id, config_hash, data)
        await asyncio.to_thread(self._shelf.keep, config_hash, data)
        return brought

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """Learns what is in force: from the hot store, else from this machine."""
        self._rollouts = rollouts
        try:
            there = await self._look()
        except HotStoreUnavailable:
            there = False
        if not there:
            kept = self._shelf.manifest()
            manifest = decode(kept, self._secret) if kept else None
            if manifest is not None:
                log.warning("the config centre is out of reach: this machine's last versions serve")
                await self._apply(manifest)

    async def follow(self) -> None:
        """Keeps the agents up to date. Runs until cancelled."""
        while True:
            with contextlib.suppress(HotStoreUnavailable):
                async with self._hotstore.subscribe(keys.CONFIGS_NEWS) as news:
                    while True:
                        await self._look()
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_SECONDS):
                                await anext(news)
            with contextlib.suppress(HotStoreUnavailable):  # it may be only the channel that fails
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def check(self) -> None:
        """Raises DependencyUnavailable while no agent is in force, or one serves an earlier version than it should."""
        for rollout in self._rollouts:
            if rollout.empty:
                raise DependencyUnavailable(EMPTY)
            for agent_id, why in rollout.refused.items():
                raise DependencyUnavailable(f"the agent {agent_id!r} serves an earlier version: {why}")

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
        if await self._apply(manifest):
            self._seen = revision
            hashes = {h for s in manifest.agents.values() for h in (s.active, s.canary, s.previous) if h}
            await asyncio.to_thread(self._shelf.keep_manifest, data, hashes)
        return True

    async def _apply(self, manifest: Manifest) -> bool:
        complete = True
        for rollout in self._rollouts:
            complete = await rollout.apply(manifest) and complete
        if complete:
            self._revision.set(manifest.revision)
            self._refused.set(sum(len(rollout.refused) for rollout in self._rollouts))
            log.info("versions of agents are in force", extra={"revision": manifest.revision, "count": len(manifest.agents)})
        return complete

    async def _workflow(self, agent_id: str, config_hash: str, data: bytes) -> tuple[Workflow, int]:
        try:
            form, text = unpack(data)
        except ValueError as e:
            raise Unusable(str(e)) from None
        given = (agent_id, config_hash, form, text, self._env, self._check_pattern)
        return await asyncio.to_thread(workflow_of, *given), len(text)

    async def _fetch(self, config_hash: str) -> bytes:
        """The text from the hot store; heavy is asked to bring one that is not there any more."""
        key = keys.config(config_hash)
        for wait in (*WAITS, 0):
            data = await self._hotstore.get(key)
            if data is not None:
                return data
            await self._hotstore.publish(keys.CONFIGS_WANTED, config_hash.encode())
            await asyncio.sleep(wait)
        raise DependencyUnavailable(f"the text of the version {config_hash} cannot be had now", retry_after=1)
