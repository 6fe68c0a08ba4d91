"""The agents that this node serves: versions of workflows with their compiled actions, chosen by agent id, session, or the hash of a
ticket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.errors import DependencyUnavailable, InvalidRequest
from common.web.config_source import GivenConfigs, manifest_of
from common.workflow.rollout import LIMIT_BYTES, Bring, Rollout, Unusable
from common.workflow.schema import Workflow
from heavy.actions.compiled import CompiledWorkflow, Rules, compile_workflow
from heavy.turns.rows import ArmTimer
from heavy.turns.timers import first_timer

MOST_TOLD = 1000
log = logging.getLogger(__name__)

RulesOf = Callable[[Workflow], Rules]


class Trusts(Protocol):
    """An egress policy that can be told of hosts."""

    def trust(self, hosts: Iterable[str]) -> None:
        """Adds them."""


class Agents(Rollout[CompiledWorkflow]):
    """All agents of a node. The first one answers requests that name none."""

    def __init__(
        self,
        workflows: Mapping[str, Workflow],
        bring: Bring | None = None,
        *,
        rules_of: RulesOf | None = None,
        policy: Trusts | None = None,
        memory: int = LIMIT_BYTES,
    ) -> None:
        """`workflows` are compiled at once; the others come by `bring`. `rules_of` says what the rules make of a message, `policy` is told
        what hosts the workflows name; what is compiled takes about `memory` bytes. Raises ConfigInvalid that names the action."""

        def compiled(workflow: Workflow) -> CompiledWorkflow:
            made = compile_workflow(workflow, workflow.env, rules_of(workflow) if rules_of else None)
            if policy is not None:
                policy.trust(made.hosts)
            return made

        super().__init__(compiled, bring or GivenConfigs(workflows).bring, limit_bytes=memory)
        self._told: set[tuple[str, str]] = set()
        if workflows:
            self.start(manifest_of(workflows), {agent_id: compiled(w) for agent_id, w in workflows.items()})

    async def choose(
        self, agent_id: str | None, tenant: str = "", session_id: str = "", config_hash: str | None = None
    ) -> CompiledWorkflow:
        """The version of an agent that a session gets: that of `config_hash`, where the rule tier has chosen it. Raises InvalidRequest
        naming `agent_id`, DependencyUnavailable while there is no agent at all or its text cannot be had."""
        if config_hash and (name := self.name_of(agent_id)):
            try:
                return await self.version(name, config_hash)
            except Unusable as e:  # a file that has changed since, or this process cannot use it
                self._tell(name, config_hash, e)
        found = await self.find(agent_id, tenant, session_id)
        if found is None:
            raise self._unknown(agent_id)
        return found

    async def active(self, agent_id: str) -> CompiledWorkflow:
        """The version that serves all sessions but the canary's. Raises as `choose`."""
        return await self.choose(agent_id, config_hash=self.in_force(agent_id))

    async def of_turn(self, agent_id: str, config_hash: str = "") -> CompiledWorkflow:
        """The agent of an accepted turn, in the version that it began with; the first agent in place of one that is gone, so that the turn
        can at least be ended."""
        return await self.choose(agent_id if self.serves(agent_id) else None, config_hash=config_hash if self.serves(agent_id) else None)

    def id_of(self, agent_id: str | None) -> str:
        """The agent's id: the first one's for None. Raises as `choose`."""
        found = self.name_of(agent_id)
        if found is None:
            raise self._unknown(agent_id)
        return found

    async def plan(self, query: Query, tenant: str) -> tuple[Plan | None, str]:
        """What the rules make of a message that has not passed the rule tier (None where they are not known here), and the hash of the
        version that says so. Raises as `choose`."""
        agent = await self.choose(query.agent_id, tenant, query.session_id)
        return agent.rules.plan(query) if agent.rules is not None else None, agent.workflow.config_hash

    async def first_timer(self, agent_id: str, config_hash: str) -> ArmTimer | None:
        """The timer that a turn of that version arms at its end; None for a workflow without, and for one that cannot be had."""
        if not self.serves(agent_id):
            return None
        try:
            return first_timer((await self.choose(agent_id, config_hash=config_hash)).workflow)
        except DependencyUnavailable as e:
            log.warning("no timer is armed for a turn of %s: %s", agent_id, e.detail)
            return None

    def all(self) -> Iterable[CompiledWorkflow]:
        """Every version in force that is compiled now."""
        return self.at_work

    def serves(self, agent_id: str) -> bool:
        """Whether there is an agent of that id."""
        return self.name_of(agent_id) is not None

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that the operator's files name literally."""
        return frozenset(host for agent in self.at_work for host in agent.hosts)

    @property
    def config_hash(self) -> str:
        """The config hash of the first agent, which health reports."""
        return self.in_force(None)

    def _tell(self, agent_id: str, config_hash: str, error: Unusable) -> None:
        """Once of each version: every turn of a session may ask for it."""
        if (agent_id, config_hash) in self._told:
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told.add((agent_id, config_hash))
        log.warning("the version %s of %s is not to be had here; the active one serves: %s", config_hash, agent_id, error.detail)

    def _unknown(self, agent_id: str | None) -> InvalidRequest | DependencyUnavailable:
        if self.empty:
            return DependencyUnavailable("no agent is in force here yet", retry_after=1)
        return InvalidRequest(f"there is no agent {agent_id!r} here", field="agent_id")
