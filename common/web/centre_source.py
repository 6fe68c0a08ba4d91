"""What both tiers' sources of the config centre have in common: texts that are kept on this machine, and versions brought into force.

Where a text comes from that is not kept here (the hot store, the database) the source of each tier knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from common.contracts.rollout import Manifest, unpack
from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics
from common.workflow.patterns import PatternCheck
from common.workflow.rollout import Rollout, Unusable, workflow_of
from common.workflow.schema import Workflow
from common.workflow.shelf import Shelf

EMPTY = "no agent is in force yet: `loadsplit config push FILE`, then `loadsplit config activate`"
log = logging.getLogger(__name__)


class CentreSource(ABC):
    """The part of a ConfigSource that does not depend on the tier. `rollouts` are the agents that it brings versions into force for."""

    public_only = True

    def __init__(self, shelf: Shelf, env: Mapping[str, str], check_pattern: PatternCheck, metrics: Metrics) -> None:
        self.shelf = shelf
        self.rollouts: tuple[Rollout[Any], ...] = ()
        self._env, self._check_pattern = env, check_pattern
        self._revision, self._refused = metrics.config_revision, metrics.config_refused

    @abstractmethod
    async def fetch(self, agent_id: str, config_hash: str) -> bytes:
        """The packed text of a version from where all are. Raises Unusable, DependencyUnavailable."""

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        """A version's workflow and the size of its text, which is kept on this machine. Raises Unusable, DependencyUnavailable."""
        data = await asyncio.to_thread(self.shelf.text, config_hash)
        if data is not None:
            with contextlib.suppress(Unusable):  # a damaged copy is brought again
                return await self._workflow(agent_id, config_hash, data)
        data = await self.fetch(agent_id, config_hash)
        brought = await self._workflow(agent_id, config_hash, data)
        await asyncio.to_thread(self.shelf.keep, config_hash, data)
        return brought

    async def apply(self, manifest: Manifest) -> bool:
        """Brings its versions into force. Whether all could be had."""
        complete = all([await rollout.apply(manifest) for rollout in self.rollouts])
        if complete:
            self._revision.set(manifest.revision)
            self._refused.set(sum(len(rollout.refused) for rollout in self.rollouts))
            log.info("versions of agents are in force", extra={"revision": manifest.revision, "count": len(manifest.agents)})
        return complete

    async def check(self) -> None:
        """Raises DependencyUnavailable while no agent is in force, or one serves an earlier version than it should."""
        for rollout in self.rollouts:
            if rollout.empty:
                raise DependencyUnavailable(EMPTY)
            for agent_id, why in rollout.refused.items():
                raise DependencyUnavailable(f"the agent {agent_id!r} serves an earlier version: {why}")

    async def _workflow(self, agent_id: str, config_hash: str, data: bytes) -> tuple[Workflow, int]:
        try:
            form, text = unpack(data)
        except ValueError as e:
            raise Unusable(str(e)) from None
        given = (agent_id, config_hash, form, text, self._env, self._check_pattern)
        return await asyncio.to_thread(workflow_of, *given), len(text)
