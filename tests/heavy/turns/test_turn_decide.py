"""Which action answers: plans, open skills, the modes, and a decision that a later attempt of the turn can take up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from common.contracts.query import Route, Usage
from common.contracts.ticket import Plan
from common.workflow.schema import Workflow
from heavy.actions.compiled import compile_workflow
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.turns.decide import Decision, decide
from heavy.turns.rows import SessionRow

DOC: dict[str, Any] = {
    "agent_id": "shop",
    "skills": [{"skill_id": "desk"}, {"skill_id": "mood", "execution_mode": "function", "endpoint": {"url": "http://127.0.0.1:1/"}}],
    "flows": [
        {"flow_id": "hours", "response_template": "x", "interrupts": True},
        {"flow_id": "prices", "type": "intent", "response_template": "x"},
    ],
}
READY = SessionRow("default", "s-1", "shop", None, "ready", None, "", "", {"name": "Ann"}, 0, 0, 0, Usage(), 0.0, 0.0)
TALKING = replace(READY, status="in_conversation", current_skill="desk")
RULE = Plan("flow", "hours", "hours?", {"day": "1"})
CHOOSES = Say("", [("prices", {"item": "kettle"})])


async def decided(session: SessionRow, plan: Plan | None = None, mode: str = "hybrid", **options: Any) -> tuple[Decision, ScriptedGateway]:
    agent = compile_workflow(Workflow.model_validate({**DOC, "multi_turn": mode}), {})
    gateway = ScriptedGateway([CHOOSES])
    return await decide(agent, session, plan, [], "hello", gateway, deadline=None, hidden=(), **options), gateway


@pytest.mark.parametrize("mode", ["hybrid", "router", "single"])
async def test_a_plan_comes_first_and_asks_no_model(mode: str) -> None:
    decision, gateway = await decided(READY, RULE, mode)
    assert decision == Decision("flow", "hours", "rule", "hours?", groups={"day": "1"})
    learned = Plan("flow", "prices", parameters={"item": "kettle"}, matched_by="learned")
    decision, gateway = await decided(READY, learned, mode)
    assert (decision.kind, decision.target, decision.matched_by, decision.parameters) == ("flow", "prices", "learned", {"item": "kettle"})
    assert gateway.requests == []


@pytest.mark.parametrize("plan", [Plan(escalated="it failed"), Plan("flow", "hours", escalated="it failed"), Plan("flow", "gone"), None])
async def test_without_a_plan_that_can_run_the_model_chooses(plan: Plan | None) -> None:
    decision, gateway = await decided(READY, plan, handed_back="Refund agreed.")
    assert (decision.kind, decision.target, decision.matched_by, decision.usage.llm_calls) == ("flow", "prices", "llm", 1)
    for part in ("Ann", "Refund agreed."):
        assert part in gateway.requests[0].messages[1].content


async def test_an_open_skill_goes_on_in_hybrid() -> None:
    for plan in (None, Plan("flow", "prices")):  # a rule that may not interrupt
        decision, gateway = await decided(TALKING, plan)
        assert (decision, gateway.requests) == (Decision("skill", "desk", "conversation"), [])
    decision, _ = await decided(replace(TALKING, current_skill="gone"))
    assert decision.matched_by == "llm"


@pytest.mark.parametrize("mode", ["hybrid", "router"])
async def test_after_a_rule_that_interrupts_the_conversation_goes_on(mode: str) -> None:
    decision, _ = await decided(TALKING, RULE, mode)
    assert (decision.target, decision.resumes, decision.intent.resumes) == ("hours", "desk", "desk")


async def test_a_router_chooses_while_it_acts() -> None:
    decision, gateway = await decided(READY, None, "router")
    assert (decision.kind, decision.target, decision.route) == ("router", None, Route("heavy", "message", None, "llm"))
    decision, gateway = await decided(TALKING, None, "router")
    assert (decision.kind, decision.target, decision.route) == ("router", "desk", Route("heavy", "message", None, "llm"))
    assert gateway.requests == []


async def test_single_knows_no_conversation() -> None:
    decision, gateway = await decided(TALKING, None, "single")
    assert (decision.target, decision.resumes, len(gateway.requests)) == ("prices", None, 1)
    assert (await decided(TALKING, Plan("flow", "prices"), "single"))[0].matched_by == "rule"


async def test_a_later_attempt_takes_the_decision_up_as_it_was() -> None:
    for session, plan, mode in ((READY, None, "hybrid"), (TALKING, RULE, "hybrid"), (TALKING, None, "router"), (READY, RULE, "single")):
        decision, _ = await decided(session, plan, mode)
        again = Decision.of_json(orjson.loads(orjson.dumps(decision.as_json())))
        assert again == replace(decision, usage=Usage())
