"""Every kind of action from intent to answer, against a real business API on loopback and a scripted model."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from common.endpoints.call import HttpCaller
from common.errors import ConfigInvalid
from common.workflow.schema import Workflow
from heavy.actions.compiled import compile_workflow
from heavy.actions.context import ActionResult
from heavy.actions.dispatch import act
from heavy.agent.scripted import Say
from heavy.agent.steps import Delta, ToolEnded, ToolStarted
from heavy.intents.matcher import Intent
from heavy.llm.types import LLMCallFailed, Message, ToolCall
from tests.support.acting import NO_SOP, Business, World, document


async def test_plain_message_under_sop_and_constraints(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Plain words.")], history=[Message("user", "before"), Message("assistant", "yes")])
    result = await world.act("message")
    assert (result.text, result.status, result.session_status, result.action_type) == ("Plain words.", "success", "ready", "message")
    system = world.gateway.requests[0].messages[0].content
    for part in ("You are Shop desk.", "Tone: brief.", "1. Understand.", "Never promise a date.", "in the language of the user"):
        assert part in system
    assert [m.content for m in world.gateway.requests[0].messages[1:]] == ["before", "yes", "hello"]
    assert world.committed == [Message("assistant", "Plain words.")]


async def test_agent_skill(business: Business, caller: HttpCaller) -> None:
    world = World(
        business,
        caller,
        [
            Say("Let me look.", [("get_order", {"order_id": "A1"})]),
            Say("", [("refund", {"order_id": "A1", "message": "sorry", "user_id": "evil", "shop": "evil"})]),
            Say("", [("done", {"message": "Refunded order A1."})]),
        ],
        context={"shop": "north"},
    )
    result = await world.act("skill", "refund_desk")
    assert (result.text, result.session_status, result.current_skill) == ("Let me look.\n\nRefunded order A1.", "ready", None)
    assert (result.action_type, result.action_target, world.usage.llm_calls) == ("skill", "refund_desk", 3)
    assert business.seen[0]["bot"] == "cb-77"
    # an argument that the model invents can stand for no context variable; a parameter called `message` is the tool's own
    assert business.seen[1]["body"] == {"order": "A1", "message": "sorry", "session": "s-1", "user": "u-1", "shop": "north"}
    assert business.seen[1]["key"] == "t_1:c2"
    assert [type(i).__name__ for i in world.items if isinstance(i, ToolStarted | ToolEnded)] == ["ToolStarted", "ToolEnded"] * 2
    asked = str(world.gateway.requests)
    assert "SKILLMARK" in asked
    for hidden in ("cb-77", "chatbotId", "u-1", "s-1", "north", "gone"):
        assert hidden not in asked


async def test_agent_skill_asks_back_and_stays_in_conversation(business: Business, caller: HttpCaller) -> None:
    result = await World(business, caller, [Say("Which order?")]).act("skill", "refund_desk")
    assert (result.text, result.session_status, result.current_skill, result.done) == (
        "Which order?",
        "in_conversation",
        "refund_desk",
        False,
    )


async def test_function_skill(business: Business, caller: HttpCaller) -> None:
    result = await World(business, caller, [], message="I love it", doc=NO_SOP).act("skill", "mood")
    assert (result.text, result.action_type) == ("Mood: shipped", "skill")
    assert business.seen[0]["body"] == {"text": "I love it"}
    await World(business, caller, [], message="mood of x", doc=NO_SOP).act("skill", "mood", input="x")
    assert business.seen[1]["body"] == {"text": "x"}


async def test_flows(business: Business, caller: HttpCaller) -> None:
    assert (await World(business, caller, [], doc=NO_SOP).act("flow", "hours")).text == "We open at 9."
    result = await World(business, caller, [], groups={"order_id": "A1"}, doc=NO_SOP).act("flow", "status")
    assert (result.text, result.action_type, result.action_target) == ("Order A1 is shipped.", "flow", "status")
    assert (
        await World(business, caller, [], groups={"order_id": "A1"}, doc=NO_SOP).act("flow", "status", order_id="A2")
    ).text == "Order A2 is shipped."
    assert (await World(business, caller, [], doc=NO_SOP).act("flow", "excused")).text == "Not today."


async def test_a_flow_without_what_its_url_needs_makes_the_model_ask(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Which order do you mean?")], doc=NO_SOP)
    assert (await world.act("flow", "status")).text == "Which order do you mean?"
    assert business.seen == []
    assert "order_id" in world.gateway.requests[0].messages[0].content


@pytest.mark.parametrize(("target", "told"), [("failing", "500"), ("nothing", "no result"), ("unknown", "there is no flow unknown")])
async def test_a_failing_flow_becomes_a_message_that_knows_why(business: Business, caller: HttpCaller, target: str, told: str) -> None:
    world = World(business, caller, [Say("I cannot do that now.")], doc=NO_SOP)
    result = await world.act("flow", target)
    assert (result.text, result.action_type) == ("I cannot do that now.", "message")
    asked = str(world.gateway.requests)
    assert told in asked
    assert "stack trace" not in asked
    assert world.gateway.requests[0].messages[-1] == Message("user", "hello")


async def test_an_escalated_rule_is_a_note_to_the_model(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Sorry about that.")], escalated="flow broken: the API answered 500")
    await world.act("message")
    assert "the API answered 500" in world.gateway.requests[0].messages[0].content


async def test_a_tool_by_intent_is_put_into_words(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("It is on its way.")])
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, result.action_type, result.action_target) == ("It is on its way.", "tool", "get_order")
    assert [m.role for m in world.committed] == ["assistant", "tool", "assistant"]
    assert '"shipped"' in world.gateway.requests[0].messages[-1].content
    assert {t.name for t in world.gateway.requests[0].tools} >= {"get_order", "refund"}


async def test_a_tool_by_intent_under_single_shot_acts_once(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("On its way.", [("get_order", {"order_id": "A2"})])], doc={"iteration_strategy": "single_shot"})
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, len(business.seen)) == ("On its way.", 1)
    assert (world.gateway.requests[0].tool_choice, len(world.gateway.requests[0].tools)) == ("none", 1)


async def test_a_tool_with_a_template_asks_no_model(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [], doc=NO_SOP)
    result = await world.act("tool", "stock", item="kettle")
    assert (result.text, world.gateway.requests) == ("Stock of kettle: shipped", [])
    assert [m.role for m in world.committed] == ["assistant", "tool", "assistant"]


async def test_a_failing_tool_with_a_template_is_put_into_words(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("That does not work today.")])
    result = await world.act("tool", "broken")
    assert result.text == "That does not work today."
    assert "stack trace" not in str(world.items) + str(world.gateway.requests)


async def test_a_tool_without_its_arguments_makes_the_model_ask(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Which order?")], doc={"iteration_strategy": "single_shot"})
    result = await world.act("tool", "get_order")
    assert (result.text, business.seen, world.committed) == ("Which order?", [], [Message("assistant", "Which order?")])
    assert "order_id" in world.gateway.requests[0].messages[0].content


@pytest.mark.parametrize("target", ["get_order", "stock"])
async def test_a_resumed_tool_uses_the_same_idempotency_key_and_does_not_run_twice(
    business: Business, caller: HttpCaller, target: str
) -> None:
    arguments = '{"order_id": "A1"}' if target == "get_order" else '{"item": "kettle"}'
    call = Message("assistant", "", (ToolCall("intent_1", target, arguments),))
    begun = [Message("user", "hello"), call]
    world = World(business, caller, [Say("Shipped.")], transcript=begun)
    await world.act("tool", target, order_id="other")
    assert len(business.seen) == 1
    world = World(business, caller, [Say("Shipped.")], transcript=[*begun, Message("tool", '{"ok":true}', tool_call_id="intent_1")])
    assert (await world.act("tool", target)).text == "Shipped."
    assert len(business.seen) == 1


async def test_system_actions(business: Business, caller: HttpCaller) -> None:
    human = await World(business, caller, []).act("system", "human")
    assert (human.text, human.status, human.session_status) == ("A person takes over.", "transferred", "transferred")
    bye = await World(business, caller, [], message="再见").act("system", "bye")
    assert (bye.text, bye.status, bye.session_status) == ("感谢您的咨询，再见。", "closed", "closed")
    note = await World(business, caller, [], groups={"city": "Rome"}).act("system", "note", name="Ada")
    assert (note.text, note.status, note.session_status, note.profile) == ("", "silent", "ready", {"city": "Rome", "name": "Ada"})


@pytest.mark.parametrize(("kind", "target"), [("message", None), ("skill", "refund_desk"), ("flow", "failing")])
async def test_nothing_said_at_all_gives_the_fallback_message(
    business: Business, caller: HttpCaller, kind: str, target: str | None
) -> None:
    world = World(business, caller, [Say("")], doc=NO_SOP)
    result = await world.act(kind, target)
    assert result.text == "Sorry, I could not do that."
    assert world.committed == [Message("assistant", "Sorry, I could not do that.")]
    assert world.usage.llm_calls == 1


async def test_an_llm_outage_is_an_error(business: Business, caller: HttpCaller) -> None:
    with pytest.raises(LLMCallFailed):
        await World(business, caller, [Say(error=LLMCallFailed("away", kind="connect"))]).act("flow", "failing")


def test_what_can_never_run_is_refused_by_name() -> None:
    doc = document(1)
    doc["flows"] = [{"flow_id": "bad", "response_template": "{x.__class__}"}]
    with pytest.raises(ConfigInvalid, match="flow bad"):
        compile_workflow(Workflow.model_validate(doc), {})


async def test_a_resumed_answer_is_not_shown_twice(business: Business, caller: HttpCaller) -> None:
    for shown, more in (("", "Plain words."), ("Plain w", "ords."), ("Plain words.", ""), ("Other", "\n\nPlain words.")):
        world = World(business, caller, [Say("Plain words.")], shown=shown)
        async with aclosing(act(world.ctx, Intent("message"))) as steps:
            items = [step async for step in steps]
        assert "".join(i.text for i in items if isinstance(i, Delta)) == more
        assert isinstance(items[-1], ActionResult)
        assert items[-1].text == shown + more


async def test_a_resumed_skill_whose_stream_was_lost_is_shown_whole(business: Business, caller: HttpCaller) -> None:
    call = Message("assistant", "Let me look.", (ToolCall("c1", "get_order", '{"order_id": "A1"}'),))
    world = World(business, caller, [Say("", [("done", {"message": "Shipped."})])], transcript=[Message("user", "hi"), call], shown="")
    result = await world.act("skill", "refund_desk")
    assert result.text == "Let me look.\n\nShipped." == "".join(i.text for i in world.items if isinstance(i, Delta))


@pytest.mark.parametrize(
    ("kind", "target", "left"),
    [
        ("flow", "hours", ("in_conversation", "mood")),
        ("system", "human", ("transferred", None)),
        ("skill", "refund_desk", ("in_conversation", "refund_desk")),
    ],
)
async def test_a_conversation_goes_on_after_an_action_that_interrupted_it(
    business: Business, caller: HttpCaller, kind: Any, target: str, left: tuple[str, str | None]
) -> None:
    world = World(business, caller, [Say("Which order?")])
    async with aclosing(act(world.ctx, Intent(kind, target, matched_by="rule", resumes="mood"))) as steps:
        result = [step async for step in steps][-1]
    assert isinstance(result, ActionResult)
    assert (result.session_status, result.current_skill) == left


async def test_single_leaves_no_skill_open(business: Business, caller: HttpCaller) -> None:
    result = await World(business, caller, [Say("Which order?")], doc={"multi_turn": "single"}).act("skill", "refund_desk")
    assert (result.text, result.session_status, result.current_skill) == ("Which order?", "ready", None)
