"""What may be learned of an intent match: which messages, and which parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from common.contracts.learned import LearnedRoute
from common.workflow.load import load_text
from heavy.intents.learned import acted_alone, may_be_learned, parameters_of, route_of
from heavy.llm.types import Message, ToolCall

TEXT = {"type": "string", "description": "The order's number"}
WORKFLOW = load_text(
    json.dumps(
        {
            "tools": [
                {
                    "name": "find_order",
                    "description": "Finds an order",
                    "endpoint": {"url": "http://127.0.0.1/{order_id}"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "order_id": TEXT,
                            "speed": {"type": "string", "enum": ["Fast", "slow"]},
                            "count": {"type": "integer"},
                            "message": TEXT,
                            "channel": TEXT,
                        },
                    },
                }
            ],
            "action_books": [
                {"condition": "an order", "action_type": "tool", "action_target": "find_order", "parameters": {"channel": "web"}}
            ],
        }
    )
)


def learned(found: Mapping[str, Any], message: str, hidden: tuple[str, ...] = ()) -> LearnedRoute | None:
    return route_of(parameters_of(WORKFLOW)["tool", "find_order"], "tool", "find_order", found, message, hidden)


@pytest.mark.parametrize("message", ["where is order A1001", "Open a new account please", "notebook stand", "我想退款", "Konto eröffnen"])
def test_a_message_that_stands_for_itself_may_be_learned(message: str) -> None:
    assert may_be_learned(message)


@pytest.mark.parametrize(
    "message",
    [
        "I do NOT want a refund",
        "I don't want a refund",
        "I don’t want a refund",
        "dont refund me",
        "refund without a fee",
        "never call me",
        "no refund",
        "cannot log in",
        "我不想退款",
        "别给我打电话",
        "没有收到",
        "请勿打扰",
        "无法登录",
        "ich will keine Erstattung",
        "je ne veux pas",
        "払い戻しはいらない",
    ],
)
def test_a_negated_message_is_never_learned(message: str) -> None:
    assert not may_be_learned(message)


@pytest.mark.parametrize("message", ["cancel it", "the same again", "And that one?", "退掉它", "这个怎么办", "x" * 300, "  "])
def test_a_message_that_leans_on_others_or_is_long_is_not_learned(message: str) -> None:
    assert not may_be_learned(message)


def test_parameters_that_stand_in_the_message_are_kept_as_places() -> None:
    assert learned({}, "find my order") == LearnedRoute("tool", "find_order")
    assert learned({"order_id": "A1001"}, "Find order  A1001!") == LearnedRoute("tool", "find_order", {"order_id": (11, 16)})


def test_parameters_of_the_action_books_are_kept_as_they_are() -> None:
    route = learned({"order_id": "A1001", "channel": "web"}, "order A1001")
    assert route == LearnedRoute("tool", "find_order", {"order_id": (6, 11)}, {"channel": "web"})
    assert learned({"channel": "phone"}, "order A1001") is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"order_id": "A1001"}, "order a1001"),  # the LLM wrote it otherwise
        ({"order_id": "A1001"}, "my last order"),  # it is not there
        ({"order_id": "A100"}, "order A1001"),  # only a part of a word
        ({"speed": "fast"}, "find it fast"),  # its form is checked, and would not be
        ({"count": 2}, "find 2 orders"),
        ({"count": "2"}, "find 2 orders"),
        ({"order_id": ""}, "order A1001"),
        ({"unknown": "A1001"}, "order A1001"),
        ({"message": "hello"}, "send hello"),
        ({"order_id": ["A1001"]}, "order A1001"),
    ],
)
def test_other_parameters_are_not_learned(found: Mapping[str, Any], message: str) -> None:
    assert learned(found, message) is None


def test_a_choice_that_was_made_without_seeing_a_parameter_is_not_learned() -> None:
    assert learned({}, "find my order", hidden=("order_id",)) is None
    assert learned({}, "find my order", hidden=("vip",)) is not None


FLOW = load_text('{"flows": [{"flow_id": "hours", "type": "intent", "response_template": "At 9."}]}').flows[0]
RAW, TOLD = WORKFLOW.tools[0], WORKFLOW.tools[0].model_copy(update={"response_template": "x"})
CALL, DONE_CALL = ToolCall("c1", "hours", "{}"), ToolCall("c2", "done", "{}")
CALLED = Message("assistant", "", (CALL,))
SHOWN = Message("tool", "At 9.", (), "c1", "shown")
RESULT = Message("tool", '{"state": 1}', (), "c1")
FAILED = Message("tool", '{"error": "away"}', (), "c1")


def said(text: str) -> Message:
    return Message("assistant", text)


@pytest.mark.parametrize(
    ("action", "messages", "alone"),
    [
        (FLOW, [CALLED, SHOWN, said("At 9.")], True),  # the model looked at it and added nothing
        (FLOW, [CALLED, SHOWN, Message("assistant", "", (DONE_CALL,)), said("At 9.")], True),
        (FLOW, [CALLED, SHOWN, said("At 9.\n\nAnything else?")], False),
        (FLOW, [CALLED, RESULT, said("In my words.")], False),
        (FLOW, [said("I need more.")], False),
        (RAW, [CALLED, RESULT, said("It is 1.")], True),
        (RAW, [CALLED, RESULT, Message("assistant", "", (ToolCall("c3", "other", "{}"),)), said("It is 1.")], False),
        (RAW, [CALLED, FAILED, said("Sorry.")], False),
        (TOLD, [CALLED, RESULT, said("It is 1.")], False),
    ],
)
def test_an_action_that_did_not_answer_alone_is_no_lesson(action: Any, messages: list[Message], alone: bool) -> None:
    assert acted_alone(action, messages, 2) is alone
    assert acted_alone(action, [said("x")], 1)
