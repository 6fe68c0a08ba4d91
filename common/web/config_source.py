"""Where a process has its workflows from, as both tiers see it; and the null object of a process whose workflows are given and never
change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from common.contracts.rollout import Manifest, Serving
from common.workflow.rollout import Rollout, Unusable
from common.workflow.schema import Workflow

DATABASE = "db:"
"""The value of LOADSPLIT_CONFIG that asks for the versions of the config centre."""


class ConfigSource(Protocol):
    """A source of workflows. `public_only`: their calls reach public addresses only, since no operator's file names the hosts."""

    public_only: bool

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        """The workflow of a version and the size of its text. Raises Unusable, DependencyUnavailable."""

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """Brings into force what there is, before the first request."""

    async def follow(self) -> None:
        """Keeps them up to date. Runs until cancelled."""

    async def check(self) -> None:
        """Raises DependencyUnavailable with what is wrong: a check of /api/v1/health."""


class GivenConfigs:
    """Workflows that stay as they are."""

    public_only = False

    def __init__(self, workflows: Mapping[str, Workflow]) -> None:
        self._workflows = {(agent_id, w.config_hash): w for agent_id, w in workflows.items()}

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        """One of them."""
        workflow = self._workflows.get((agent_id, config_hash))
        if workflow is None:
            raise Unusable(f"the agent {agent_id!r} has no version {config_hash} here")
        return workflow, 0

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """They are in force already."""

    async def follow(self) -> None:
        """Nothing changes."""

    async def check(self) -> None:
        """Nothing can be wrong."""


def manifest_of(workflows: Mapping[str, Workflow], revision: int = 1) -> Manifest:
    """The manifest of workflows that all serve as they are."""
    return Manifest(revision, {agent_id: Serving(w.config_hash) for agent_id, w in workflows.items()})
