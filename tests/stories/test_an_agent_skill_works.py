"""An agent skill: the model calls tools one after another, the user sees each of them, and `done` ends the run."""

from __future__ import annotations

from tests.support.client import Client, said
from tests.support.running import Running


def test_a_rule_picks_the_skill(client: Client, business: Running) -> None:
    before = business.client.call("GET", "/effects").json["total"]
    answer = client.ask("returns desk please", "skill-1").json
    assert answer["message"] == "Let me look.\n\nYour return is open."
    assert answer["route"]["tier"] == "heavy"
    assert (answer["route"]["action_target"], answer["route"]["matched_by"]) == ("returns_desk", "rule")
    assert answer["usage"]["llm_calls"] == 3
    assert answer["usage"]["output_tokens"] > 0
    assert business.client.call("GET", "/effects").json["total"] == before + 1


def test_the_llm_picks_the_skill(client: Client) -> None:
    answer = client.ask("I want to send it back", "skill-2").json
    assert (answer["route"]["action_target"], answer["route"]["matched_by"]) == ("returns_desk", "llm")
    assert answer["message"].endswith("Your return is open.")


def test_a_stream_shows_every_step(client: Client) -> None:
    events = list(client.stream("returns desk please", "skill-3"))
    types = [e.type for e in events]
    assert types[:2] == ["start", "route"]
    assert types[-1] == "complete"
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    calls = [e.data for e in events if e.type == "tool_call"]
    results = [e.data for e in events if e.type == "tool_result"]
    assert [c["name"] for c in calls] == [r["name"] for r in results] == ["get_order", "open_ticket"]
    assert [c["call_id"] for c in calls] == [r["call_id"] for r in results]
    assert calls[1]["arguments"] == {"order_id": "A1001", "reason": 'broken "lid" ü'}
    assert all(r["ok"] and r["duration_ms"] >= 0 for r in results)
    assert said(events) == events[-1].data["message"]


def test_a_plain_message(client: Client) -> None:
    answer = client.ask("tell me something", "skill-4").json
    assert answer["message"] == "Plain words."
    assert answer["route"]["action_type"] == "message"
    assert answer["route"]["matched_by"] == "none"


def test_context_never_reaches_the_model(client: Client, llm: Running) -> None:
    client.ask("returns desk please", "skill-5", user_id="user-secret-7", context={"vip_code": "code-secret-8"})
    seen = llm.client.call("GET", "/stats").body
    assert b"user-secret-7" not in seen
    assert b"code-secret-8" not in seen
    assert b"cb-1" not in seen
