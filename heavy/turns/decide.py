"""Which action answers a message in the heavy tier: the conversation in progress, the rule's plan, or the LLM's intent match.

The order is that of docs/workflow.md ("Which action answers a message"). It decides only; acting is `heavy.actions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from common.contracts.query import MatchedBy, Route, Usage
from common.contracts.ticket import Plan
from common.workflow.schema import Skill
from heavy.actions.compiled import CompiledWorkflow
from heavy.intents.matcher import Intent, IntentKind, match_intent
from heavy.llm.types import Gateway, Message
from heavy.turns.stores import SessionRow


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, how it was found, and what finding it cost. `kind` is skill, tool, flow, system or message."""

    kind: IntentKind
    target: str | None = None
    matched_by: MatchedBy = "none"
    pattern: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    @property
    def route(self) -> Route:
        """The route as clients see it."""
        return Route("heavy", self.kind, self.target, self.matched_by, self.pattern)

    @property
    def intent(self) -> Intent:
        """The same for `heavy.actions`."""
        return Intent(self.kind, self.target, dict(self.parameters), self.matched_by)


async def decide(
    agent: CompiledWorkflow,
    session: SessionRow,
    plan: Plan | None,
    history: Sequence[Message],
    message: str,
    gateway: Gateway,
    *,
    deadline: float | None,
    hidden: Collection[str],
) -> Decision:
    """Chooses the action. At most one LLM call, and none when a conversation goes on or a rule has chosen.

    `deadline` is Unix seconds, `hidden` the names of context variables, which no model may see. Raises LLMError, DeadlineExceeded."""
    planned = _planned(agent, plan)
    if session.status == "in_conversation" and session.current_skill:
        action = agent.declared.get(("skill", session.current_skill))
        interrupts = planned is not None and agent.declared[planned.kind, planned.target or ""].interrupts
        if isinstance(action, Skill) and action.execution_mode == "agent" and not interrupts:
            return Decision("skill", action.id, "conversation")
    if planned is not None:
        return planned
    escalated = plan.escalated if plan else None
    intent, usage, _ = await match_intent(gateway, agent.workflow, history, message, escalated=escalated, deadline=deadline, hidden=hidden)
    if intent.kind == "message":
        return Decision("message", usage=usage)
    return Decision(intent.kind, intent.target, "llm", parameters=intent.parameters, usage=usage)


def _planned(agent: CompiledWorkflow, plan: Plan | None) -> Decision | None:
    """The rule's choice, unless its action has already failed in the lightweight tier or is not in this version."""
    if plan is None or plan.escalated or plan.action_type is None or plan.action_target is None:
        return None
    if (plan.action_type, plan.action_target) not in agent.declared:
        return None
    return Decision(cast(IntentKind, plan.action_type), plan.action_target, "rule", plan.pattern, groups=plan.groups)
