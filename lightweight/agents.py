"""Workflows as this tier uses them: rules compiled, actions ready to perform, replies half encoded. Knows no request. Immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.contracts.gate import greeting_hash
from common.endpoints.answer import CompiledAction, compile_action, setting_variables
from common.errors import DependencyUnavailable, InvalidRequest
from common.workflow.rollout import Rollout
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


class Agents(Rollout[Agent]):
    """The agents that are served, by id. Without an id in the request the first one answers."""

    async def choose(self, agent_id: str | None, tenant: str, session_id: str) -> Agent:
        """The version of an agent that a session gets; `at_hand` has it mostly. Raises InvalidRequest naming agent_id when there is no
        agent of that name, DependencyUnavailable while there is none at all or its text cannot be had."""
        found = await self.find(agent_id, tenant, session_id)
        if found is not None:
            return found
        await self.ready()
        raise InvalidRequest(f"there is no agent {agent_id!r}", field="agent_id")

    async def ready(self) -> None:
        """Raises DependencyUnavailable while no agent is in force."""
        if self.empty:
            raise DependencyUnavailable("no agent is in force here yet", retry_after=1)

    @property
    def busy_message(self) -> str | None:
        """What may be shown when a message is refused unread: the words of the only agent, if there is only one."""
        agent = next(self.at_work, None) if self.only_one else None
        return agent.workflow.busy_message if agent is not None else None

    @property
    def rule_count(self) -> int:
        """Rules of all agents that are compiled."""
        return sum(len(agent.matcher.rules) for agent in self.at_work)

    @property
    def config_hash(self) -> str:
        """The first agent's version: what a reply that concerns no agent names."""
        return self.in_force(None)


def hosts_of(agent: Agent) -> frozenset[str]:
    """The hosts that the workflow's endpoints name: what an operator's file may reach though it is private."""
    return frozenset(a.action.endpoint.host for a in agent.performed if a.action.endpoint)


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
