"""Acting with every action at hand: sop_driven and router, what ends a turn, what is shown, and going on after any committed step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.endpoints.call import HttpCaller
from heavy.actions.context import ActionResult
from heavy.agent.prompts import SHOWN
from heavy.agent.said import SEPARATOR, said_before
from heavy.agent.scripted import Say
from heavy.agent.steps import Delta, Routed, Step, ToolEnded, ToolStarted
from heavy.llm.types import LLMRequest, Message, ToolCall
from tests.support.acting import NO_SOP, Business, World

STATUS = ("status", {"order_id": "A1"})


def by_rounds(*says: Say) -> Callable[[LLMRequest], Say]:
    """Answers by how many rounds of calls the model is shown, as a model without a memory of its own does."""

    def script(request: LLMRequest) -> Say:
        return says[sum(bool(m.tool_calls) for m in request.messages)]

    return script


async def test_the_model_looks_at_the_result_and_decides_again_with_all_actions(business: Business, caller: HttpCaller) -> None:
    world = World(
        business, caller, by_rounds(Say(), Say("", [("mood", {"input": "x"})]), Say("", [STATUS]), Say("", [("done", {"message": ""})]))
    )
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, result.status, result.reason) == ("Mood: shipped\n\nOrder A1 is shipped.", "success", "done")
    assert (result.action_type, result.action_target) == ("flow", "status")
    assert [s["path"] for s in business.seen] == ["/orders/A1", "/mood", "/orders/A1"]
    assert [s["key"] for s in business.seen if s["path"] == "/mood"] == ["t_1:c1"]
    offered = {t.name for t in world.gateway.requests[0].tools}
    assert offered == {
        *("refund_desk", "mood", "get_order", "refund", "stock", "broken", "erase", "hours", "log", "status", "failing", "excused"),
        *("nothing", "human", "bye", "note", "remember", "done"),
    }
    get_order = next(t for t in world.gateway.requests[0].tools if t.name == "get_order")
    assert get_order.parameters["required"] == ["order_id"]
    system = world.gateway.requests[0].messages[0].content
    assert "1. Understand." in system
    assert "Never promise a date." in system


async def test_a_shown_answer_is_told_to_the_model_which_may_add_words(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Anything else?")])
    result = await world.act("flow", "status", order_id="A1")
    assert result.text == "Order A1 is shipped.\n\nAnything else?"
    assert SHOWN in world.gateway.requests[0].messages[-1].content
    assert world.transcript[1:] == [
        Message("assistant", "", (ToolCall("intent_1", "status", '{"order_id":"A1"}'),)),
        Message("tool", "Order A1 is shipped.", tool_call_id="intent_1", author="shown"),
        Message("assistant", "Order A1 is shipped.\n\nAnything else?"),  # for whoever reads the session
    ]


@pytest.mark.parametrize("say", [Say(""), Say("", [("done", {})]), Say("", [("done", {"message": "Order A1 is shipped."})])])
async def test_nothing_need_be_added_to_a_shown_answer(business: Business, caller: HttpCaller, say: Say) -> None:
    world = World(business, caller, [say])
    result = await world.act("flow", "status", order_id="A1")
    assert (result.text, result.status) == ("Order A1 is shipped.", "success")
    assert world.transcript[-1] == Message("assistant", "Order A1 is shipped.")


@pytest.mark.parametrize(("kind", "target"), [("tool", "stock"), ("flow", "hours"), ("skill", "mood"), ("system", "remember")])
async def test_without_a_sop_a_shown_answer_ends_the_turn_without_a_model(
    business: Business, caller: HttpCaller, kind: str, target: str
) -> None:
    world = World(business, caller, [], doc=NO_SOP)
    result = await world.act(kind, target, item="kettle")
    assert result.text
    assert (result.action_type, result.action_target, world.gateway.requests) == (kind, target, [])
    assert world.transcript[-1] == Message("assistant", result.text)


async def test_without_a_sop_a_raw_result_is_still_decided_on(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, by_rounds(Say(), Say("", [("hours", {})])), doc=NO_SOP)
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, result.action_target, len(world.gateway.requests)) == ("We open at 9.", "hours", 1)


@pytest.mark.parametrize(
    ("target", "status", "session"),
    [
        ("human", "transferred", "transferred"),
        ("bye", "closed", "closed"),
        ("note", "silent", "ready"),
        ("log", "silent", "ready"),
    ],
)
async def test_what_ends_the_turn(business: Business, caller: HttpCaller, target: str, status: str, session: str) -> None:
    world = World(business, caller, [Say("", [(target, {"name": "Ada"}), ("done", {"message": "Bye."})])])
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.status, result.session_status, result.action_target) == (status, session, target)
    assert (result.text == "") == (status == "silent")
    assert result.profile == ({"name": "Ada"} if target == "note" else None)
    assert [m.tool_call_id for m in world.transcript if m.role == "tool"] == ["intent_1", "c1", "c2"]


async def test_two_actions_that_end_the_turn_are_one(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("", [("bye", {}), ("human", {})])])
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.status, result.text) == ("closed", "Thank you, goodbye.")
    assert "another action of the same message ends the turn" in str(world.transcript)


async def test_what_was_said_beside_a_silent_action_is_no_silence(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("I will note that.", [("note", {"name": "Ada"})])])
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.status, result.text, result.profile) == ("success", "I will note that.", {"name": "Ada"})


async def test_a_skill_takes_the_turn_over_on_the_same_transcript(business: Business, caller: HttpCaller) -> None:
    script = by_rounds(
        Say(),
        Say("", [("remember", {"city": "Rome"})]),
        Say("", [("refund_desk", {})]),
        Say("", [("refund", {"order_id": "A1"})]),
        Say("Which account?"),
    )
    world = World(business, caller, script)
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, result.action_type, result.action_target) == ("Noted.\n\nWhich account?", "skill", "refund_desk")
    assert (result.session_status, result.current_skill, result.profile) == ("in_conversation", "refund_desk", {"city": "Rome"})
    assert [s["path"] for s in business.seen] == ["/orders/A1", "/refunds"]
    last = world.gateway.requests[-1]
    assert "SKILLMARK" in last.messages[0].content
    assert "SKILLMARK" not in world.gateway.requests[1].messages[0].content
    assert '"shipped"' in str(last.messages)  # the skill sees what was found before
    assert {t.name for t in last.tools} == {"get_order", "refund", "erase", "done"}
    assert world.transcript[-1].content == "Noted.\n\nWhich account?"


async def test_bad_arguments_and_unknown_actions_go_back_to_the_model(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, by_rounds(Say("", [("drop_table", {}), ("get_order", "{"), ("status", {})]), Say("Which order?")))
    result = await world.act("tool", "get_order")
    assert (result.text, business.seen) == ("Which order?", [])
    told = "".join(m.content for m in world.transcript if m.role == "tool")
    for part in ("there is no tool 'drop_table'", "not valid JSON", "order_id"):
        assert part in told.replace('\\"', '"')


@pytest.mark.parametrize(("kind", "target"), [("tool", "get_order"), ("flow", "status")])
async def test_an_action_that_lacks_something_is_not_called_but_the_model_may_ask_or_find_out(
    business: Business, caller: HttpCaller, kind: str, target: str
) -> None:
    world = World(business, caller, [Say("Which order?")])
    assert (await world.act(kind, target)).text == "Which order?"
    assert (business.seen, [m.role for m in world.transcript]) == ([], ["user", "assistant"])
    assert f"the action {target} would be called" in world.gateway.requests[0].messages[0].content
    world = World(business, caller, by_rounds(Say("", [STATUS]), Say("")))
    assert (await world.act(kind, target)).text == "Order A1 is shipped."


async def test_defaults_of_action_books_need_not_be_repeated(business: Business, caller: HttpCaller) -> None:
    book = {"condition": "x", "action_type": "tool", "action_target": "get_order", "parameters": {"order_id": "B7"}}
    world = World(business, caller, by_rounds(Say(), Say("", [("get_order", {})]), Say("Fine.")), doc={"action_books": [book]})
    assert (await world.act("flow", "hours")).text == "We open at 9.\n\nFine."
    assert business.seen[0]["path"] == "/orders/B7"


async def test_an_endless_loop_ends_with_a_last_answer(business: Business, caller: HttpCaller) -> None:
    def script(request: LLMRequest) -> Say:
        rounds = sum(bool(m.tool_calls) for m in request.messages)
        return Say("So far.") if request.tool_choice == "none" else Say("", [("get_order", {"order_id": f"A{rounds}"})])

    world = World(business, caller, script, doc={"max_iterations": 3})
    result = await world.act("tool", "get_order", order_id="A0")
    assert (result.text, result.reason, len(business.seen), len(world.gateway.requests)) == ("So far.", "max_iterations", 3, 3)


async def test_a_bound_is_named_and_the_partial_answer_kept(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Let me look.", [STATUS])] * 9, doc={"limits": {"tokens": 30}})
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.reason, result.done) == ("limit:tokens", False)
    assert result.text.startswith("Let me look.\n\nOrder A1 is shipped.")


async def test_single_shot_acts_once_and_closes_once(business: Business, caller: HttpCaller) -> None:
    once = {"iteration_strategy": "single_shot"}
    world = World(business, caller, [], doc=once)
    assert (await world.act("flow", "status", order_id="A1")).text == "Order A1 is shipped."
    world = World(business, caller, [Say("It is on its way.", [STATUS])], doc=once)
    result = await world.act("tool", "get_order", order_id="A1")
    assert (result.text, result.reason, result.done, len(world.gateway.requests)) == ("It is on its way.", "done", True, 1)
    world = World(business, caller, by_rounds(Say("", [("get_order", {"order_id": "A1"})]), Say("On its way.", [STATUS])), doc=once)
    result = await world.act("router")
    assert (result.text, result.reason, len(world.gateway.requests)) == ("On its way.", "done", 2)


@pytest.mark.parametrize("matched_by", ["rule", "learned", "none"])
async def test_what_no_model_chose_asks_no_model(business: Business, caller: HttpCaller, matched_by: str) -> None:
    world = World(business, caller, [], matched_by=matched_by)
    assert (await world.act("flow", "status", order_id="A1")).text == "Order A1 is shipped."
    result = await World(business, caller, [], matched_by=matched_by, groups={"order_id": "A1"}).act("tool", "get_order")
    assert '"shipped"' in result.text
    assert business.seen[-1]["path"] == "/orders/A1"
    assert (result.action_type, result.action_target) == ("tool", "get_order")


def routes(world: World) -> list[Routed]:
    """What was said about the route; it comes before anything else is shown."""
    shown = [i for i in world.items if isinstance(i, Routed | Delta | ToolStarted | ToolEnded | ActionResult)]
    assert isinstance(shown[0], Routed)
    return [i for i in world.items if isinstance(i, Routed)]


async def test_a_router_answers_in_words(business: Business, caller: HttpCaller) -> None:
    history = [Message("user", f"message {i // 2}") if i % 2 == 0 else Message("assistant", "Yes.") for i in range(20)]
    world = World(business, caller, [Say("Good morning.")], history=history)
    result = await world.act("router")
    assert (result.text, result.action_type, result.action_target, result.session_status) == ("Good morning.", "message", None, "ready")
    assert routes(world) == [Routed("message")]
    request = world.gateway.requests[0]
    assert [m.content for m in request.messages[1:-1]] == [m.content for m in history]
    assert {"refund_desk", "get_order", "hours", "human", "done"} <= {t.name for t in request.tools}
    assert request.purpose == "router"


async def test_a_router_acts_and_says_what_answered(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, by_rounds(Say("", [("get_order", {"order_id": "A1"})]), Say("", [STATUS]), Say("")))
    result = await world.act("router")
    assert (result.text, result.action_type, result.action_target) == ("Order A1 is shipped.", "flow", "status")
    assert routes(world) == [Routed("tool", "get_order")]


async def test_a_router_hands_over_to_a_skill_and_knows_which_is_in_progress(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, by_rounds(Say("", [("refund_desk", {})]), Say("Which account?")))
    result = await world.act("router", "refund_desk")
    assert (result.session_status, result.current_skill, result.text) == ("in_conversation", "refund_desk", "Which account?")
    assert routes(world) == [Routed("skill", "refund_desk")]
    assert "“refund_desk” is in progress" in world.gateway.requests[0].messages[0].content


async def test_a_router_knows_what_failed_before(business: Business, caller: HttpCaller) -> None:
    world = World(business, caller, [Say("Sorry.")], escalated="flow failing: the API answered 500")
    await world.act("router")
    assert "the API answered 500" in world.gateway.requests[0].messages[0].content


@pytest.mark.parametrize("mode", ["hybrid", "router"])
async def test_knowledge_profile_and_what_a_human_did_stand_in_every_prompt(business: Business, caller: HttpCaller, mode: str) -> None:
    class Found:
        asked = 0

        async def found(self) -> str:
            self.asked += 1
            return "Kettles last ten years."

    found = Found()
    world = World(
        business,
        caller,
        by_rounds(Say("", [STATUS]), Say("", [STATUS]), Say("Yes.")),
        knowledge=found,
        profile={"name": "Ann"},
        handed_back="Refund agreed.",
    )
    await world.act(*(("router",) if mode == "router" else ("tool", "get_order")), **({} if mode == "router" else {"order_id": "A1"}))
    for request in world.gateway.requests:
        for part in ("Kettles last ten years.", "Ann", "Refund agreed."):
            assert part in request.messages[1].content
    assert found.asked == 1


def handover() -> tuple[str, Any]:
    return "handover", by_rounds(
        Say("Let me see.", [("remember", {"city": "Rome"}), ("get_order", {"order_id": "A1"})]),
        Say("Let me see.", [("remember", {"city": "Rome"}), ("get_order", {"order_id": "A1"})]),
        Say("", [("refund_desk", {}), ("done", {"message": "x"})]),
        Say("", [("refund", {"order_id": "A1"})]),
        Say("", [("done", {"message": "Refunded."})]),
    )


def ending() -> tuple[str, Any]:
    return "ending", by_rounds(
        Say("", [STATUS, ("mood", {"input": "x"})]),
        Say("", [STATUS, ("mood", {"input": "x"})]),
        Say("I am sorry.", [("human", {}), ("done", {})]),
        Say(""),
    )


PATHS = {"get_order": "/orders/A1", "status": "/orders/A1", "mood": "/mood", "refund": "/refunds"}


@pytest.mark.parametrize("mode", ["sop_driven", "router"])
@pytest.mark.parametrize("case", [handover(), ending()], ids=lambda c: c[0])
async def test_any_node_goes_on_after_any_committed_step(business: Business, caller: HttpCaller, case: Any, mode: str) -> None:
    def chosen() -> tuple[Any, ...]:
        return ("router",) if mode == "router" else ("flow", "hours")

    whole = World(business, caller, case[1])
    wanted = await whole.act(*chosen())
    called = sorted(s["path"] for s in business.seen)
    steps = [i.messages for i in whole.items if isinstance(i, Step)]
    assert len(steps) > 5
    for cut in range(len(steps)):
        begun = [Message("user", "hello"), *(m for messages in steps[:cut] for m in messages)]
        before = SEPARATOR.join(said_before(begun))
        answered = {m.tool_call_id for m in begun if m.role == "tool"}
        made = [PATHS[c.name] for m in begun for c in m.tool_calls if c.id in answered and c.name in PATHS]
        business.seen.clear()
        world = World(business, caller, case[1], transcript=begun, shown=before)
        world.gateway._calls = sum(len(m.tool_calls) for m in begun if m.tool_calls and m.tool_calls[0].id != "intent_1")
        result = await world.act(*chosen())
        assert result.text == wanted.text
        assert before + "".join(i.text for i in world.items if isinstance(i, Delta)) == wanted.text
        assert (result.status, result.action_target, result.profile, result.session_status) == (
            wanted.status,
            wanted.action_target,
            wanted.profile,
            wanted.session_status,
        )
        assert sorted([*made, *(s["path"] for s in business.seen)]) == called  # nothing twice, nothing left out
        assert [m.content for m in world.transcript if m.role == "assistant"] == [
            m.content for m in whole.transcript if m.role == "assistant"
        ]
