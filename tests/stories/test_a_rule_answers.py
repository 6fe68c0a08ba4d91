"""A message that a rule recognises is answered by the lightweight tier, without any LLM call, and is part of the session's history."""

from __future__ import annotations

from tests.support.client import Client, said


def test_a_static_answer(client: Client) -> None:
    answer = client.ask("What are your OPENING   hours?", "rule-1", headers={"X-Request-Id": "mine-1"})
    assert answer.json["message"] == "We open at 9."
    assert answer.json["route"] == {
        "tier": "lightweight",
        "action_type": "flow",
        "action_target": "hours",
        "matched_by": "rule",
        "pattern": "opening hours",
    }
    assert answer.json["usage"]["llm_calls"] == 0
    assert answer.headers["x-loadsplit-tier"] == "lightweight"
    assert answer.headers["x-loadsplit-config"] == answer.json["config_hash"]
    assert answer.headers["x-request-id"] == "mine-1"
    assert "total;dur=" in answer.headers["server-timing"]


def test_full_width_and_chinese(client: Client) -> None:
    assert client.ask("ＯＰＥＮＩＮＧ hours", "rule-2").json["message"] == "We open at 9."
    assert client.ask("请问营业时间是?", "rule-2").json["message"] == "We open at 9."


def test_an_answer_from_the_business_api(client: Client) -> None:
    answer = client.ask("Where is my order A1001?", "rule-3").json
    assert answer["route"]["action_target"] == "order_status"
    assert answer["route"]["tier"] == "lightweight"
    assert answer["message"].startswith("Order A1001 is ")


def test_the_same_as_a_stream(client: Client) -> None:
    stream = client.stream("opening hours", "rule-4")
    events = list(stream)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [e.type for e in events] == ["start", "route", "text", "complete"]
    assert [e.id for e in events] == [1, 2, 3, 4]
    assert said(events) == events[-1].data["message"] == "We open at 9."
    assert events[0].data["turn_id"] == events[-1].data["turn_id"]


def test_its_turn_is_kept(client: Client) -> None:
    events = list(client.stream("opening hours", "rule-5"))
    turn_id = events[0].data["turn_id"]
    turn = client.call("GET", f"/api/v1/turns/{turn_id}").json
    assert turn["state"] == "done"
    assert turn["result"]["message"] == "We open at 9."
    replayed = list(client.resume(turn_id, 1))
    assert [(e.id, e.type) for e in replayed] == [(2, "route"), (3, "text"), (4, "complete")]
    assert client.messages("rule-5") == [("user", "opening hours"), ("assistant", "We open at 9.")]


def test_rules_and_the_llm_share_one_history(client: Client) -> None:
    client.ask("opening hours", "rule-6")
    client.ask("tell me a story", "rule-6")
    client.ask("营业时间", "rule-6")
    assert [text for _, text in client.messages("rule-6")] == [
        "opening hours",
        "We open at 9.",
        "tell me a story",
        "Plain words.",
        "营业时间",
        "We open at 9.",
    ]
