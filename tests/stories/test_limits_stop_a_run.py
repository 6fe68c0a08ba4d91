"""The limits of a run, and models that answer with nonsense: a typed stop with what there is, never an endless loop."""

from __future__ import annotations

from tests.support.client import Client


def test_tool_calls(desks: Client) -> None:
    events = list(desks.stream("work differently: different", "limit-1", agent_id="bounded"))
    results = [e.data for e in events if e.type == "tool_result"]
    assert [r["ok"] for r in results] == [True, True]
    assert events[-1].type == "complete"
    assert events[-1].data["message"] == "That I could not do."


def test_tokens(desks: Client) -> None:
    answer = desks.ask("work differently: different", "limit-2", agent_id="frugal").json
    assert answer["message"] == "That I could not do."
    assert answer["usage"]["llm_calls"] <= 3


def test_seconds(desks: Client) -> None:
    events = list(desks.stream("work with slow words", "limit-3", agent_id="quick"))
    assert events[-1].type == "complete", events
    assert events[-1].data["message"].endswith("That I could not do.")


def test_the_same_call_three_times(desks: Client) -> None:
    events = list(desks.stream("work on it", "limit-4", agent_id="looping"))
    assert [e.data["name"] for e in events if e.type == "tool_result"] == ["get_order", "get_order"]
    assert (events[-1].type, events[-1].data["message"]) == ("complete", "That I could not do.")


def test_nonsense_from_the_model(desks: Client) -> None:
    for words in ("work on nonsense", "work on unknown things"):
        answer = desks.ask(words, f"limit-6-{len(words)}", agent_id="bounded")
        assert (answer.status, answer.json["code"]) == (502, "llm_error")
        assert answer.json["retryable"] is False
        after = desks.ask("opening hours", f"limit-6-{len(words)}", agent_id="bounded").json
        assert after["message"] == "We open at 9."
