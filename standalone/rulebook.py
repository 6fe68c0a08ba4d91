"""The rule tier as heavy's config centre needs it: rules of workflows, the checks of `loadsplit check`, replays of messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from common.contracts.learned import LearnedRoute
from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.workflow.patterns import PatternCheck
from common.workflow.schema import Workflow
from heavy.configs.rulebook import Examination
from lightweight.agents import Agent, compile_agent
from lightweight.answer import planned
from lightweight.learned import explained
from lightweight.matching.compile import check_pattern, compile_rules
from standalone.commands.check import check_text
from standalone.commands.replay import Said, replay

# (agent id, config hash) → the compiled version, where the rule tier of the same process has it.
Known = Callable[[str, str], Agent | None]


class AgentRules:
    """The rules of one version, compiled when they are first asked for."""

    def __init__(self, workflow: Workflow, known: Known) -> None:
        self._workflow, self._known = workflow, known
        self._agent: Agent | None = None

    def plan(self, query: Query) -> Plan:
        """The plan of a message."""
        return planned(self._compiled(), query)

    def explain(self, text: str, context: Mapping[str, Any], route: LearnedRoute | None = None) -> dict[str, Any]:
        """How a text is routed, with the learned route of the text, if there is one."""
        return explained(self._compiled(), text, route, context)

    def _compiled(self) -> Agent:
        if self._agent is None:
            self._agent = self._known(self._workflow.agent_id, self._workflow.config_hash) or compile_agent(self._workflow)
        return self._agent


class Rules:
    """A heavy.configs.rulebook.Rulebook. `known` is given where the rule tier is in the same process; else rules are compiled at once."""

    check_pattern: PatternCheck = staticmethod(check_pattern)

    def __init__(self, known: Known | None = None) -> None:
        self._known = known

    def rules_of(self, workflow: Workflow) -> AgentRules:
        """The rules of a workflow. Raises RulesInvalid."""
        if self._known is not None:
            return AgentRules(workflow, self._known)
        agent = compile_agent(workflow)
        return AgentRules(workflow, lambda agent_id, config_hash: agent)

    def examine(self, text: str, name: str, env: Mapping[str, str]) -> Examination:
        """Validates and lints a text, compiles its rules and runs its tests."""
        workflow, checked = check_text(text, name, env)
        tests = [asdict(test) for test in checked.tests] if workflow is not None else None
        return Examination(workflow, checked.problems, tests)

    def replay(self, said: Sequence[Mapping[str, Any]], old: Workflow, new: Workflow) -> dict[str, Any]:
        """Which of these messages would be routed otherwise by `new` than by `old`."""
        messages = (Said(i, m["message"], m.get("context") or {}, m.get("session_id")) for i, m in enumerate(said, 1))
        return replay(messages, compile_rules(new), compile_rules(old)).as_dict()
