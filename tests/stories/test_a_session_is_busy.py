"""A message comes while a turn of its session runs, and the caller has said what is to happen then: X-Loadsplit-On-Busy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.client import Client, EventStream
from tests.support.waiting import wait_until_sync

BUSY = "X-Loadsplit-On-Busy"


def slow(client: Client, session: str) -> tuple[EventStream, str]:
    """A turn that tells a long story, and its id."""
    stream = client.stream("a slow story", session)
    return stream, stream.take(3)[0].data["turn_id"]


def waiting(client: Client, session: str, count: int) -> None:
    """Returns once the session has accepted so many turns."""
    wait_until_sync(lambda: client.call("GET", f"/api/v1/session/{session}").json["message_count"] >= count, "the messages are accepted")


def test_reject_names_the_running_turn(client: Client) -> None:
    stream, turn_id = slow(client, "busy-1")
    refused = client.ask("tell me something", "busy-1", headers={BUSY: "reject"})
    assert (refused.status, refused.json["code"], refused.json["turn_id"]) == (409, "session_busy", turn_id)
    assert refused.json["retryable"] is True
    client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert list(stream)[-1].type == "cancelled"
    assert client.ask("tell me something", "busy-1", headers={BUSY: "reject"}).json["message"] == "Plain words."
    assert [text for role, text in client.messages("busy-1") if role == "user"] == ["a slow story", "tell me something"]


def test_a_rule_answers_all_the_same(client: Client) -> None:
    stream, turn_id = slow(client, "busy-2")
    assert client.ask("opening hours", "busy-2", headers={BUSY: "reject"}).json["message"] == "We open at 9."
    client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert list(stream)[-1].type == "cancelled"


def test_interrupt_ends_the_running_turn(client: Client) -> None:
    """Its words stay in the history, and the model goes on from there."""
    stream, turn_id = slow(client, "busy-3")
    answer = client.ask("tell me something", "busy-3", headers={BUSY: "interrupt"})
    assert (answer.status, answer.json["message"]) == (200, "Plain words.")
    last = list(stream)[-1]
    assert (last.type, last.data["reason"]) == ("cancelled", "interrupted by a newer message")
    assert client.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "cancelled"
    history = client.messages("busy-3")
    assert [role for role, _ in history] == ["user", "assistant", "user", "assistant"]
    assert history[1][1].startswith("word0")


def test_interrupt_with_nothing_to_interrupt(client: Client) -> None:
    assert client.ask("tell me something", "busy-4", headers={BUSY: "interrupt"}).json["message"] == "Plain words."


def test_merge_makes_one_turn_of_what_waits(client: Client) -> None:
    stream, turn_id = slow(client, "busy-5")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.ask, "tell me something", "busy-5", headers={BUSY: "merge"})
        waiting(client, "busy-5", 2)
        others = [pool.submit(client.ask, f"and {n}, too", "busy-5", headers={BUSY: "merge"}) for n in (1, 2)]
        wait_until_sync(
            lambda: client.call("GET", "/api/v1/session/busy-5?include=messages").json["messages"][-1]["content"].count("\n") == 2,
            "both are part of the turn that waits",
        )
        client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
        answers = [f.result() for f in (first, *others)]
    assert list(stream)[-1].type == "cancelled"
    assert {a.body for a in answers} == {answers[0].body}
    assert answers[0].json["message"] == "Plain words."
    users = [text for role, text in client.messages("busy-5") if role == "user"]
    assert len(users) == 2
    assert sorted(users[1].splitlines()) == ["and 1, too", "and 2, too", "tell me something"]


def test_a_word_that_is_none(client: Client) -> None:
    for message in ("opening hours", "tell me something"):
        refused = client.ask(message, "busy-6", headers={BUSY: "wait"})
        assert (refused.status, refused.json["field"]) == (400, BUSY)
        assert "enqueue, reject, interrupt, merge" in refused.json["detail"]
