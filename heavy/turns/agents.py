"""The agents that this node serves: each workflow with its compiled actions, chosen by agent id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.errors import InvalidRequest
from common.workflow.schema import Workflow
from heavy.actions.compiled import CompiledWorkflow, compile_workflow


class Agents:
    """All agents of a node. The first one answers requests that name none."""

    def __init__(self, workflows: Mapping[str, Workflow]) -> None:
        self._agents = {agent_id: compile_workflow(w, w.env) for agent_id, w in workflows.items()}

    def choose(self, agent_id: str | None) -> CompiledWorkflow:
        """The agent of that id, or the first one. Raises InvalidRequest naming `agent_id`."""
        if agent_id is None:
            return next(iter(self._agents.values()))
        agent = self._agents.get(agent_id)
        if agent is None:
            raise InvalidRequest(f"there is no agent {agent_id!r} here", field="agent_id")
        return agent

    def of_turn(self, agent_id: str) -> CompiledWorkflow:
        """The agent of an accepted turn; the first one in place of an agent that is gone, so that the turn can at least be ended."""
        return self._agents.get(agent_id) or self.choose(None)

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that the operator's files name literally."""
        return frozenset(host for agent in self._agents.values() for host in agent.hosts)

    def all(self) -> Iterable[CompiledWorkflow]:
        """Every agent."""
        return self._agents.values()

    def serves(self, agent_id: str) -> bool:
        """Whether there is an agent of that id."""
        return agent_id in self._agents

    @property
    def config_hash(self) -> str:
        """The config hash of the first agent, which health reports."""
        return self.choose(None).workflow.config_hash
