"""The intent match: what the model is offered, and that any answer of a model becomes an intent."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from common.errors import DeadlineExceeded
from common.workflow.schema import Workflow
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.intents.candidates import candidates
from heavy.intents.matcher import Intent, match_intent, read_intent
from heavy.llm.tokens import estimate
from heavy.llm.types import Message, ToolCall

ENDPOINT = {"url": "http://127.0.0.1:1/orders/{order_id}"}
DOC: dict[str, Any] = {
    "agent_id": "shop",
    "basic_settings": {"name": "Shop desk", "description": "Sells kettles", "chatbot_id": "cb-77"},
    "sop": "Understand, act, answer.",
    "models": {"default": "big", "intent": "small"},
    "tools": [
        {
            "name": "get_order",
            "description": "Look an order up",
            "parameters": {
                "type": "object",
                "properties": {"order_id": {"type": "string"}, "user_id": {"type": "string"}, "shop": {"type": "string"}},
                "required": ["order_id", "user_id"],
            },
            "endpoint": ENDPOINT,
        }
    ],
    "skills": [
        {"skill_id": "refund_desk", "name": "Refund desk", "description": "Handles refunds", "system_prompt": "SECRET SKILL PROMPT"},
        {"skill_id": "mood", "execution_mode": "function", "endpoint": {"url": "http://127.0.0.1:1/mood", "method": "POST"}},
    ],
    "flows": [
        {"flow_id": "status", "trigger_patterns": ["where is (?P<order_id>\\w+)"], "endpoint": ENDPOINT, "response_template": "{result}"},
        {"flow_id": "recommend", "type": "intent", "response_template": "Take the red kettle."},
        {"flow_id": "推荐", "type": "intent", "response_template": "红色水壶。"},
    ],
    "system_actions": [{"action_id": "human", "handler": "handoff"}],
    "action_books": [
        {
            "condition": "The user asks what to buy",
            "action_type": "flow",
            "action_target": "recommend",
            "priority": 5,
            "parameters": {"n": 3},
        },
        {"condition": "The user wants money back", "action_type": "skill", "action_target": "refund_desk", "priority": 10},
        {"condition": "Never", "action_type": "flow", "action_target": "nowhere", "priority": 99},
    ],
}
WORKFLOW = Workflow.model_validate(DOC)
HISTORY = [
    Message("user", "hello"),
    Message("assistant", "", (ToolCall("1", "get_order", "{}"),)),
    Message("tool", "TOOL RESULT", tool_call_id="1"),
    Message("assistant", "Hi."),
]


async def match(say: Say, message: str = "I want my money back", **options: Any) -> tuple[Intent, ScriptedGateway]:
    gateway = ScriptedGateway([say])
    intent, usage, raw = await match_intent(gateway, WORKFLOW, HISTORY, message, **options)
    assert usage.llm_calls == 1
    assert raw is not None
    return intent, gateway


def test_candidates_stand_in_a_fixed_order_with_their_conditions() -> None:
    found = candidates(WORKFLOW)
    assert [c.target for c in found] == ["refund_desk", "recommend", "mood", "get_order", "推荐", "status", "human"]
    assert [c.spec.name for c in found] == ["refund_desk", "recommend", "mood", "get_order", "action_5", "status", "human"]
    assert found[0].spec.description == "Skill “Refund desk”. Handles refunds. Choose it when: The user wants money back"


def test_context_variables_are_no_parameters_and_groups_of_rules_are() -> None:
    by_target = {c.target: c.spec.parameters for c in candidates(WORKFLOW, hidden={"shop"})}
    assert list(by_target["get_order"]["properties"]) == ["order_id"]
    assert "required" not in by_target["get_order"]
    assert by_target["status"] == {"type": "object", "properties": {"order_id": {"type": "string"}}}
    assert by_target["refund_desk"]["properties"] == {}


def test_ids_of_two_kinds_that_collide_get_different_names() -> None:
    doc = {**DOC, "flows": [{"flow_id": "get_order", "response_template": "x"}, {"flow_id": "reply_directly", "response_template": "x"}]}
    names = [c.spec.name for c in candidates(Workflow.model_validate(doc))]
    assert len(set(names)) == len(names)
    assert "reply_directly" not in names
    assert {"get_order", "get_order_2"} <= set(names)


async def test_the_request_is_one_forced_deterministic_choice() -> None:
    intent, gateway = await match(Say("", [("refund_desk", {})]))
    assert intent == Intent("skill", "refund_desk", {}, "llm")
    request = gateway.requests[0]
    assert (request.model, request.tool_choice, request.deterministic, request.purpose) == ("small", "required", True, "intent")
    assert request.tools[0].name == "reply_directly"
    assert request.tools[0].parameters["properties"] == {}
    assert {"recommend", "status"} & {t.name for t in request.tools} == {"recommend"}  # a flow with rules is chosen by its rules
    assert request.messages[-1] == Message("user", "I want my money back")
    assert [m.content for m in request.messages[1:-1]] == ["hello", "Hi."]
    text = str(request)
    assert "cb-77" not in text
    assert "SECRET SKILL PROMPT" not in text
    assert "TOOL RESULT" not in text


async def test_action_book_parameters_are_defaults() -> None:
    intent, _ = await match(Say("", [("recommend", {"colour": "red"})]))
    assert intent.parameters == {"n": 3, "colour": "red"}
    intent, _ = await match(Say("", [("recommend", {"n": 1})]))
    assert intent.parameters == {"n": 1}


async def test_why_a_rules_action_failed_is_told() -> None:
    _, gateway = await match(Say("", [("reply_directly", {})]), escalated="flow status: the API answered 500")
    assert "the API answered 500" in gateway.requests[0].messages[0].content
    assert gateway.requests[0].messages[-1].content == "I want my money back"


@pytest.mark.parametrize(
    ("say", "target"),
    [
        (Say("", [("reply_directly", {})]), None),
        (Say("", [("drop_table", {})]), None),
        (Say("", [("drop_table", {}), ("refund_desk", {})]), "refund_desk"),
        (Say("", [("Functions.Refund_Desk", {})]), "refund_desk"),
        (Say("", [("skill__refund_desk", {})]), "refund_desk"),
        (Say("", [("route", {"action_type": "skill", "action_target": "refund_desk"})]), "refund_desk"),
        (Say('{"action_target": "refund_desk"}'), "refund_desk"),
        (Say('```json\n{"next_action": {"type": "skill", "target": "refund_desk"}}\n```'), "refund_desk"),
        (Say('{"action": "refund_desk", "parameters": {}}'), "refund_desk"),
        (Say("refund_desk"), "refund_desk"),
        (Say('"推荐"'), "推荐"),
        (Say('{"action_target": ["refund_desk"]}'), None),
        (Say("[1, 2]"), None),
        (Say("Sure, let me help you with that."), None),
        (Say(""), None),
        (Say("", [("get_order", '{"order_id": "A1')]), "get_order"),
    ],
)
def test_any_answer_becomes_an_intent(say: Say, target: str | None) -> None:
    calls = tuple(ToolCall(str(i), n, a if isinstance(a, str) else json.dumps(a)) for i, (n, a) in enumerate(say.calls))
    intent = read_intent(Message("assistant", say.text, calls), candidates(WORKFLOW))
    assert intent.target == target
    assert (intent.kind == "message") == (target is None)


async def test_nothing_to_choose_from_asks_no_model() -> None:
    gateway = ScriptedGateway()
    intent, usage, raw = await match_intent(gateway, Workflow(), [], "hello")
    assert (intent.kind, intent.matched_by, usage.llm_calls, raw, gateway.requests) == ("message", "none", 0, None, [])


async def test_single_leaves_the_history_out() -> None:
    gateway = ScriptedGateway([Say("")])
    await match_intent(gateway, Workflow.model_validate({**DOC, "multi_turn": "single"}), HISTORY, "hello")
    assert [m.role for m in gateway.requests[0].messages] == ["system", "user"]


async def test_a_spent_deadline_makes_no_call() -> None:
    with pytest.raises(DeadlineExceeded):
        await match(Say(""), deadline=time.time() - 1)


def test_what_the_session_knows_is_no_parameter() -> None:
    flow = {"flow_id": "ship", "type": "intent", "response_template": "{city}, {profile.name}, {context.shop}"}
    [choice] = candidates(Workflow.model_validate({"flows": [flow]}))
    assert list(choice.spec.parameters["properties"]) == ["city"]


async def test_a_thousand_turns_of_history_are_cut_to_the_newest() -> None:
    history = [m for i in range(1000) for m in (Message("user", f"question {i} " + "x" * 400), Message("assistant", f"answer {i}"))]
    gateway = ScriptedGateway([Say("", [("refund_desk", {})])])
    await match_intent(gateway, WORKFLOW, history, "hello")
    messages = gateway.requests[0].messages
    assert estimate(messages) < 5000
    assert messages[-2] == Message("assistant", "answer 999")


async def test_notes_stand_behind_the_prompt() -> None:
    _, gateway = await match(Say("", [("reply_directly", {})]), notes=("Known: Ann.", ""))
    prompt, notes = (m.content for m in gateway.requests[0].messages if m.role == "system")
    assert "call `reply_directly`" in prompt
    assert notes == "Known: Ann."
