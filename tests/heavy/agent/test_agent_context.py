"""What fits into a context: estimates, histories that every provider takes, compaction and its failure."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from heavy.agent import context
from heavy.agent.context import Window, newest, sanitise, shorten, words_only
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.llm.tokens import estimate, tokens_of
from heavy.llm.types import LLMCallFailed, LLMRequest, Message, ToolCall, ToolSpec

CALL = ToolCall("c1", "get_order", '{"order_id": "A1"}')
TOOL = ToolSpec("get_order", "Look up", {"type": "object", "properties": {}})


def user(text: str) -> Message:
    return Message("user", text)


def bot(text: str, *calls: ToolCall) -> Message:
    return Message("assistant", text, calls)


def result(call_id: str, text: str = "ok") -> Message:
    return Message("tool", text, tool_call_id=call_id)


def test_estimates() -> None:
    assert tokens_of("a" * 400) == 101
    assert tokens_of("退" * 400) == 401
    assert tokens_of("退款refund") == 2 + 1 + 1
    assert estimate([user("a" * 40), bot("", CALL)]) > estimate([user("a" * 40)])


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([user("a"), bot("b")], ["user", "assistant"]),
        ([bot("greeting"), user("a"), bot("b")], ["user", "assistant"]),
        ([user("a"), user("b"), bot("c")], ["user", "assistant", "user", "assistant"]),
        ([user("a")], ["user", "assistant"]),
        ([user("a"), bot("", CALL), result("c1"), bot("b")], ["user", "assistant", "tool", "assistant"]),
        ([user("a"), bot("", CALL)], ["user", "assistant", "tool"]),
        ([user("a"), bot("", CALL), user("b"), bot("c")], ["user", "assistant", "tool", "user", "assistant"]),
        ([user("a"), result("c9"), bot("b")], ["user", "assistant"]),
        ([user("a"), bot("", CALL), result("c9"), bot("b")], ["user", "assistant", "tool", "assistant"]),
        ([user("a"), bot("", CALL), result("c1"), result("c1"), bot("b")], ["user", "assistant", "tool", "assistant"]),
        ([user("a"), bot("  "), bot("b")], ["user", "assistant"]),
        ([Message("system", "x"), user("a"), bot("b")], ["user", "assistant"]),
        ([], []),
    ],
)
def test_sanitise_makes_any_history_valid(messages: Sequence[Message], roles: list[str]) -> None:
    clean = sanitise(messages)
    assert [m.role for m in clean] == roles
    calls = [c.id for m in clean for c in m.tool_calls]
    assert [m.tool_call_id for m in clean if m.role == "tool"] == calls
    assert sanitise(clean) == clean


def test_words_only_keeps_the_dialogue() -> None:
    messages = [user("a"), bot("Let me look.", CALL), result("c1", "SECRET"), bot("Shipped."), user("b"), bot("", CALL), result("c1")]
    assert words_only(messages) == [user("a"), bot("Let me look.\n\nShipped."), user("b"), bot(context.NO_ANSWER)]


def test_the_newest_whole_turns_are_kept() -> None:
    turns = [m for i in range(10) for m in (user(f"question {i} " + "x" * 400), bot("", CALL), result("c1"), bot("answer"))]
    older, kept = newest(turns, estimate(turns[-8:]))
    assert kept == turns[-8:]
    assert older == turns[:-8]


def window(gateway: ScriptedGateway, history: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> Window:
    return Window(gateway, model="m", compaction_model="small", history=history, tools=tools, deadline=None)


LONG = [m for i in range(20) for m in (user(f"q{i} " + "x" * 200), bot(f"a{i} " + "y" * 200))]


async def test_a_short_history_is_sent_whole() -> None:
    gateway = ScriptedGateway()
    messages = await window(gateway, LONG).messages("system", [user("now")])
    assert messages == [Message("system", "system"), *LONG, user("now")]
    assert gateway.requests == []


async def test_a_long_history_is_summarised_once() -> None:
    gateway = ScriptedGateway([Say("They spoke of q0 to q13.")], context_tokens=3000)
    w = window(gateway, LONG)
    for _ in range(2):
        messages = await w.messages("system", [user("now")])
        assert messages[1] == Message("system", "Summary of the earlier conversation:\nThey spoke of q0 to q13.")
        assert messages[2].role == "user"
        assert messages[-3:] == [*LONG[-2:], user("now")]
        assert estimate(messages) < 3000
    assert len(gateway.requests) == 1
    request: LLMRequest = gateway.requests[0]
    assert (request.model, request.purpose) == ("small", "compaction")
    assert "q0" in request.messages[1].content
    assert w.usage.llm_calls == 1


async def test_a_failed_summary_drops_the_oldest() -> None:
    gateway = ScriptedGateway([Say(error=LLMCallFailed("away", kind="connect"))], context_tokens=2000)
    messages = await window(gateway, LONG).messages("system", [user("now")])
    assert [m.role for m in messages[:2]] == ["system", "user"]
    assert messages[-3:] == [*LONG[-2:], user("now")]
    assert len(messages) < len(LONG)


async def test_old_tool_results_of_the_running_turn_are_shortened() -> None:
    transcript = [user("now")]
    for i in range(5):
        call = ToolCall(f"c{i}", "get_order", "{}")
        transcript += [bot("", call), result(call.id, "z" * 4000)]
    messages = await window(ScriptedGateway(context_tokens=3000), [], [TOOL]).messages("system", transcript)
    assert estimate(messages) <= 3000
    assert messages[-1].content == "z" * 4000
    assert messages[3].content.endswith("[shortened]")
    assert shorten(transcript, 10**6) == transcript
