"""Which action answers a message in the heavy tier: the conversation in progress, the rule's plan, or the LLM's intent match.

The order is that of docs/workflow.md ("Which action answers a message"). It decides only; acting is `heavy.actions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from common.contracts.query import MatchedBy, Route, Usage
from common.contracts.ticket import Plan
from common.workflow.schema import Skill
from heavy.actions.compiled import CompiledWorkflow
from heavy.agent import prompts
from heavy.intents.matcher import Intent, IntentKind, match_intent
from heavy.llm.types import Gateway, Message
from heavy.turns.rows import SessionRow


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, how it was found, and what finding it cost.

    `kind` is skill, tool, flow, system or message; or router: then the model chooses while it acts, `target` is the skill that is in
    progress, and the route is known only then (heavy.agent.steps.Routed). `resumes` is the skill whose conversation goes on afterwards.
    """

    kind: IntentKind
    target: str | None = None
    matched_by: MatchedBy = "none"
    pattern: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    resumes: str | None = None

    @property
    def route(self) -> Route:
        """The route as clients see it; of a router's, as long as no action is known."""
        if self.kind == "router":
            return Route("heavy", "message", None, self.matched_by)
        return Route("heavy", self.kind, self.target, self.matched_by, self.pattern)

    @property
    def intent(self) -> Intent:
        """The same for `heavy.actions`."""
        return Intent(self.kind, self.target, dict(self.parameters), self.matched_by, self.resumes)

    def as_json(self) -> dict[str, Any]:
        """Everything but the cost as a JSON object, for a later attempt of the turn."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "usage"}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Decision:
        """The decision of `as_json`; it costs nothing again."""
        return cls(**document)


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
    handed_back: str | None = None,
) -> Decision:
    """Chooses the action. At most one LLM call, and none when a conversation goes on, a rule has chosen or a router is to choose.

    `deadline` is Unix seconds, `hidden` the names of context variables, which no model may see, `handed_back` what a human did with the
    session before. Raises LLMError, DeadlineExceeded."""
    mode = agent.workflow.multi_turn
    planned = _planned(agent, plan)
    if mode != "single" and (skill := _open_skill(agent, session)):
        if planned is not None and agent.declared[planned.kind, planned.target or ""].interrupts:
            return replace(planned, resumes=skill)
        return Decision("skill", skill, "conversation") if mode == "hybrid" else Decision("router", skill, "llm")
    if planned is not None:
        return planned
    if mode == "router":
        return Decision("router", None, "llm")
    intent, usage, _ = await match_intent(
        gateway,
        agent.workflow,
        history,
        message,
        escalated=plan.escalated if plan else None,
        deadline=deadline,
        hidden=hidden,
        notes=(prompts.profile(session.profile), prompts.handed_back(handed_back or "")),
    )
    if intent.kind == "message":
        return Decision("message", usage=usage)
    return Decision(intent.kind, intent.target, "llm", parameters=intent.parameters, usage=usage)


def _open_skill(agent: CompiledWorkflow, session: SessionRow) -> str | None:
    """The agent skill that the session is in conversation with, if this version of the workflow still has it."""
    if session.status != "in_conversation" or not session.current_skill:
        return None
    action = agent.declared.get(("skill", session.current_skill))
    return action.id if isinstance(action, Skill) and action.execution_mode == "agent" else None


def _planned(agent: CompiledWorkflow, plan: Plan | None) -> Decision | None:
    """The choice of a rule or a learned route, unless its action has already failed in the lightweight tier or is not in this version."""
    if plan is None or plan.escalated or plan.action_type is None or plan.action_target is None:
        return None
    if (plan.action_type, plan.action_target) not in agent.declared:
        return None
    kind = cast(IntentKind, plan.action_type)
    return Decision(kind, plan.action_target, plan.matched_by, plan.pattern, plan.parameters, plan.groups)


def asks_model(agent: CompiledWorkflow, session: SessionRow | None, plan: Plan | None) -> bool:
    """Whether a model will be asked about this message; not where a rule has chosen anything else than an agent skill."""
    planned = _planned(agent, plan)
    if planned is None or (session is not None and session.status == "in_conversation" and session.current_skill):
        return True
    action = agent.declared[planned.kind, planned.target or ""]
    return isinstance(action, Skill) and action.execution_mode == "agent"
