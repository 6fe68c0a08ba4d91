"""Workflows as this tier uses them: rules compiled, actions ready to perform, replies half encoded. Knows no request. Immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.contracts.gate import greeting_hash
from common.endpoints.answer import CompiledAction, compile_action, setting_variables
from common.errors import InvalidRequest
from common.workflow.schema import ActionKind, Tool, Workflow
from lightweight.matching.compile import compile_rules, tier_of
from lightweight.matching.match import Action, Matcher
from lightweight.replies import Frame, compact, prepare


@dataclass(frozen=True, slots=True)
class Answering:
    """An action that this tier performs, for one rule or for learned routes. `constant` is its JSON-encoded text where nothing is to be
    filled in, `calls` whether it calls an API."""

    action: CompiledAction
    frame: Frame
    calls: bool
    constant: bytes | None


@dataclass(frozen=True, slots=True)
class Learnable:
    """An action that a learned route may name; without `answering` it is heavy that performs it."""

    kind: ActionKind
    action: Action
    answering: Answering | None


@dataclass(frozen=True, slots=True)
class Agent:
    """One workflow. `answering` has an item for each rule of the matcher, None where heavy runs it; `settings` are its variables.

    `learned` are the actions by (kind, id) where learned routes are switched on, else None.
    """

    workflow: Workflow
    settings: Mapping[str, Any]
    matcher: Matcher
    answering: tuple[Answering | None, ...]
    greeting: str
    greeting_hash: str
    greeting_frame: Frame
    config_hash: str
    learned: Mapping[tuple[str, str], Learnable] | None = None

    @property
    def performed(self) -> Iterator[Answering]:
        """Everything that this tier performs."""
        yield from filter(None, self.answering)
        yield from filter(None, (known.answering for known in (self.learned or {}).values()))


class Agents:
    """The agents that are served, by id. Without an id in the request the first one answers."""

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = dict(agents)
        self._first = next(iter(self._agents.values()), None)

    def find(self, agent_id: str | None) -> Agent:
        """The agent. Raises InvalidRequest naming agent_id when there is none of that name."""
        found = self._first if agent_id is None else self._agents.get(agent_id)
        if found is None:
            raise InvalidRequest(f"there is no agent {agent_id!r}" if agent_id else "no agent is served here", field="agent_id")
        return found

    def get(self, agent_id: str) -> Agent | None:
        """The agent of that id, None without one."""
        return self._agents.get(agent_id)

    @property
    def busy_message(self) -> str | None:
        """What may be shown when a message is refused unread: the words of the only agent, if there is only one."""
        return self._first.workflow.busy_message if self._first and len(self._agents) == 1 else None

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that the workflows' endpoints name: what an operator's file may reach though it is private."""
        performed = (a.action.endpoint for agent in self._agents.values() for a in agent.performed)
        return frozenset(endpoint.host for endpoint in performed if endpoint)

    @property
    def rule_count(self) -> int:
        """Rules of all agents."""
        return sum(len(agent.matcher.rules) for agent in self._agents.values())

    @property
    def config_hash(self) -> str:
        """The first agent's version: what a reply that concerns no agent names."""
        return self._first.config_hash if self._first else ""


def compile_agents(workflows: Mapping[str, Workflow]) -> Agents:
    """All agents, ready to answer. Raises RulesInvalid naming every rule of an agent that does not hold."""
    return Agents({agent_id: compile_agent(workflow) for agent_id, workflow in workflows.items()})


def compile_agent(workflow: Workflow) -> Agent:
    """One agent, ready to answer. Raises RulesInvalid."""
    matcher = compile_rules(workflow)
    actions: dict[tuple[str, str], CompiledAction] = {}
    answering: list[Answering | None] = []
    for rule in matcher.rules:
        if rule.tier == "heavy":
            answering.append(None)
            continue
        key = (rule.kind, rule.action.id)
        if key not in actions:
            actions[key] = compile_action(rule.kind, rule.action, workflow.env)
        answering.append(_answering(actions[key], prepare(rule.kind, rule.action.id, rule.pattern, workflow.config_hash)))
    return Agent(
        workflow=workflow,
        settings=setting_variables(workflow),
        matcher=matcher,
        answering=tuple(answering),
        greeting=workflow.greeting or "",
        greeting_hash=greeting_hash(workflow.greeting),
        greeting_frame=prepare("greeting", None, None, workflow.config_hash),
        config_hash=workflow.config_hash,
        learned=_learnable(workflow) if workflow.learned_routes.enabled else None,
    )


def _learnable(workflow: Workflow) -> dict[tuple[str, str], Learnable]:
    """What learned routes may name. A tool without a template needs a model to put its result into words: heavy performs it."""
    found: dict[tuple[str, str], Learnable] = {}
    for kind, action in workflow.actions():
        answering = None
        if tier_of(kind, action) == "lightweight" and not (isinstance(action, Tool) and not action.response_template):
            compiled = compile_action(kind, action, workflow.env)
            answering = _answering(compiled, prepare(kind, action.id, None, workflow.config_hash, "learned"))
        found[kind, action.id] = Learnable(kind, action, answering)
    return found


def _answering(action: CompiledAction, frame: Frame) -> Answering:
    constant = None if action.static is None else compact(action.static)
    return Answering(action, frame, action.endpoint is not None, constant)
