"""Whatever is wrong is told as one problem with a code: bad bodies, unknown things, a dead API, a failing LLM. The server goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.client import Client, said

GOOD = {"message": "opening hours", "session_id": "bad-1"}
BAD_FIELDS: list[tuple[Any, str]] = [
    ({"message": "x"}, "session_id"),
    ({"session_id": "s"}, "message"),
    ({**GOOD, "message": ""}, "message"),
    ({**GOOD, "message": 5}, "message"),
    ({**GOOD, "message": "x" * 32769}, "message"),
    ({**GOOD, "message": "字" * 11000}, "message"),
    ({**GOOD, "session_id": "a b/c"}, "session_id"),
    ({**GOOD, "session_id": "s" * 129}, "session_id"),
    ({**GOOD, "user_id": 7}, "user_id"),
    ({**GOOD, "agent_id": "nobody"}, "agent_id"),
    ({**GOOD, "context": []}, "context"),
    ({**GOOD, "context": {"a": {"b": 1}}}, "context.a"),
]
BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b'{"message":"x\\ud800","session_id":"s"}',
    b'{"message":"x","session_id":"s","message":"y"}',
    b'{"message":"x","session_id":"s","context":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
    b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
]


@pytest.mark.parametrize("path", ["/api/v1/query", "/api/v1/query/stream"])
def test_bad_bodies(client: Client, path: str) -> None:
    for body, field in BAD_FIELDS:
        answer = client.call("POST", path, body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), body
        assert answer.json["field"] == field
    for raw in BAD_BODIES:
        answer = client.call("POST", path, raw=raw)
        assert answer.status in (400, 413), raw[:60]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["type"].endswith(answer.json["code"])
        assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert client.call("POST", path, GOOD).status == 200


def test_the_largest_message_is_taken(client: Client) -> None:
    text = "opening hours " + "字" * 10900
    assert client.ask(text, "bad-2").json["message"] == "We open at 9."


def test_wrong_type_method_path(client: Client) -> None:
    wrong_type = client.call("POST", "/api/v1/query", GOOD, headers={"content-type": "text/plain"})
    assert (wrong_type.status, wrong_type.json["code"]) == (415, "unsupported_media_type")
    assert client.call("GET", "/api/v1/query").status == 405
    assert client.call("GET", "/nope").json["code"] == "not_found"
    assert client.call("GET", "/api/v1/session/unknown").json["code"] == "not_found"
    assert client.call("GET", "/api/v1/session/a%20b").json["code"] == "invalid_request"
    assert client.call("POST", "/api/v1/query", raw=b"x" * 3_000_000).status == 413
    assert client.ask("opening hours", "bad-3", headers={"X-Loadsplit-Timeout": "soon"}).json["field"] == "X-Loadsplit-Timeout"


def test_the_business_api_is_away(client: Client) -> None:
    """The same request goes on to the model, which is told what failed; nothing of the failure reaches the user."""
    answer = client.ask("the unreachable thing", "bad-4")
    assert (answer.status, answer.json["message"]) == (200, "Plain words.")
    assert answer.json["route"]["tier"] == "heavy"
    assert b"127.0.0.1" not in answer.body


def test_an_unknown_order_goes_on_to_the_model(client: Client) -> None:
    answer = client.ask("where is order ZZZ", "bad-5").json
    assert answer["route"]["tier"] == "heavy"
    assert answer["message"] == "Plain words."


def test_the_llm_fails_before_its_first_token(client: Client) -> None:
    answer = client.ask("fail at once", "bad-6")
    assert (answer.status, answer.json["code"], answer.json["retryable"]) == (502, "llm_error", True)
    events = list(client.stream("fail at once", "bad-6"))
    assert [e.type for e in events] == ["start", "route", "error"]
    assert events[-1].data["code"] == "llm_error"
    assert client.ask("tell me something", "bad-6").json["message"] == "Plain words."
    assert [text for role, text in client.messages("bad-6") if role == "user"] == ["fail at once", "fail at once", "tell me something"]


@pytest.mark.parametrize("message", ["break off", "break off quietly"])
def test_the_llm_breaks_off(client: Client, message: str) -> None:
    session = "bad-7" + message[-1]
    events = list(client.stream(message, session))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "error"]
    assert said(events)
    assert events[-1].data["code"] == "llm_error"
    turn = client.call("GET", f"/api/v1/turns/{events[0].data['turn_id']}").json
    assert turn["state"] == "failed"
    assert turn["error"]["code"] == "llm_error"
    assert client.ask("tell me something", session).json["message"] == "Plain words."


def test_a_deadline(client: Client) -> None:
    answer = client.ask("a slow story", "bad-8", headers={"X-Loadsplit-Timeout": "0.5"})
    assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
    assert client.ask("tell me something", "bad-8").json["message"] == "Plain words."


def test_the_documents(client: Client) -> None:
    health = client.call("GET", "/api/v1/health").json
    assert health["status"] == "healthy"
    assert {"config_hash", "sessions_count", "tier", "checks"} <= set(health)
    assert client.call("GET", "/livez").status == client.call("GET", "/readyz").status == 200
    assert b"# HELP loadsplit_" in client.call("GET", "/metrics").body
    paths = json.loads(client.call("GET", "/openapi.json").body)["paths"]
    assert {"/api/v1/query", "/api/v1/query/stream", "/api/v1/turns/{turn_id}/stream", "/api/v1/session/{session_id}"} <= set(paths)
    assert b"<html" in client.call("GET", "/docs").body
    assert b"<html" in client.call("GET", "/").body
