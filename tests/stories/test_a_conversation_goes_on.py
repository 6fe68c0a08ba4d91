"""A skill that asks back keeps the session in conversation; the next message goes to it, and `done` ends that."""

from __future__ import annotations

from tests.support.client import Client


def state(client: Client, session: str) -> tuple[str, str | None]:
    found = client.call("GET", f"/api/v1/session/{session}").json["workflow_state"]
    return found["status"], found["current_skill"]


def test_three_messages(client: Client) -> None:
    first = client.ask("returns desk, which one do you need to know?", "talk-1").json
    assert first["message"] == "Which order is it?"
    assert state(client, "talk-1") == ("in_conversation", "returns_desk")
    second = client.ask("opening hours", "talk-1").json  # a rule that does not interrupt
    assert second["route"]["matched_by"] == "conversation"
    assert second["route"]["action_target"] == "returns_desk"
    assert state(client, "talk-1") == ("ready", None)
    third = client.ask("opening hours", "talk-1").json
    assert third["route"]["matched_by"] == "rule"
    assert third["message"] == "We open at 9."


def test_a_transferred_session_is_mute(client: Client) -> None:
    assert client.ask("talk to a human", "talk-2").json["status"] == "transferred"
    muted = client.ask("opening hours", "talk-2").json
    assert (muted["status"], muted["message"]) == ("transferred", "")
    assert ("user", "opening hours") in client.messages("talk-2")


def test_a_closed_session_begins_again(client: Client) -> None:
    assert client.ask("goodbye", "talk-3").json["status"] == "closed"
    assert state(client, "talk-3")[0] == "closed"
    assert client.ask("tell me something", "talk-3").json["message"] == "Plain words."
    assert state(client, "talk-3")[0] == "ready"


def test_a_deleted_session_is_gone(client: Client) -> None:
    client.ask("returns desk, which one do you need to know?", "talk-4")
    assert client.call("DELETE", "/api/v1/session/talk-4").json == {"status": "deleted"}
    assert client.call("GET", "/api/v1/session/talk-4").status == 404
    assert client.call("DELETE", "/api/v1/session/talk-4").status == 404
    assert client.ask("opening hours", "talk-4").json["route"]["matched_by"] == "rule"
