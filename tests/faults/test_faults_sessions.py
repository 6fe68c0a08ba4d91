"""Sessions under fire on two replicas: simultaneous messages, busy sessions, repeated requests, effects whose outcome is lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.contracts.query import new_turn_id
from common.contracts.ticket import HEADER, Plan, Ticket, sign
from tests.faults.conftest import TICKET_SECRET
from tests.support.client import Answer, Client
from tests.support.odd_api import OddApi
from tests.support.split import Split
from tests.support.waiting import wait_until_sync

TAKEN_OVER = 25.0


def ticket(session: str, agent: str = "shop", plan: Plan | None = None) -> dict[str, str]:
    """What the rule tier hands over, so that either replica can be asked."""
    given = Ticket("default", agent, session, new_turn_id(), "", plan or Plan())
    return {HEADER: sign(given, TICKET_SECRET.encode())}


def turn(client: Client, turn_id: str) -> dict[str, object]:
    found: dict[str, object] = client.call("GET", f"/api/v1/turns/{turn_id}").json
    return found


def ended(client: Client, turn_id: str) -> dict[str, object]:
    wait_until_sync(lambda: turn(client, turn_id)["state"] in ("done", "failed", "cancelled"), "the turn ends", TAKEN_OVER)
    return turn(client, turn_id)


def history(client: Client, session: str) -> list[dict[str, object]]:
    return list(client.call("GET", f"/api/v1/session/{session}?include=messages&limit=500").json["messages"])


@pytest.fixture
def dead_replica(split: Split) -> Iterator[Split]:
    """A split whose first replica is killed by the test and started again behind it."""
    yield split
    if split.heavy[0].process.poll() is not None:
        split.heavy[0].start()


def test_simultaneous_messages_on_two_replicas(split: Split) -> None:
    """All are kept, in one order, and both replicas tell the same history."""
    replicas = itertools.cycle([h.client for h in split.heavy])
    asked = [(next(replicas), f"one by one {n}") for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda a: a[0].ask(a[1], "both-1", headers=ticket("both-1")), asked))
    assert {(a.status, a.json["message"]) for a in answers} == {(200, "Answered.")}
    here, there = (history(h.client, "both-1") for h in split.heavy)
    assert here == there
    assert [m["role"] for m in here] == ["user", "assistant"] * 12
    assert sorted(str(m["content"]) for m in here if m["role"] == "user") == sorted(text for _, text in asked)


def test_reject_on_the_other_replica(split: Split) -> None:
    here, there = (h.client for h in split.heavy)
    stream = here.stream("a slow story", "both-2", headers=ticket("both-2"))
    turn_id = stream.take(2)[0].data["turn_id"]
    refused = there.ask("tell me something", "both-2", headers={**ticket("both-2"), "X-Loadsplit-On-Busy": "reject"})
    assert (refused.status, refused.json["code"], refused.json["turn_id"]) == (409, "session_busy", turn_id)
    there.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert list(stream)[-1].type == "cancelled"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_interrupted_with_a_tool_call_open(split: Split, provider: str, odd_api: OddApi) -> None:
    """From the other replica. The open call has no result: what both providers get afterwards is valid, and is answered."""
    here, there = (h.client for h in split.heavy)
    session, agent = f"both-3-{provider}", f"book-{provider}"
    stream = here.stream("book late", session, agent_id=agent, headers=ticket(session, agent, Plan("skill", "late", "late")))
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "tool_call":
            break
    wait_until_sync(lambda: any(session in body for body in odd_api.applied), "the tool is called")
    answer = there.ask("how are you?", session, agent_id=agent, headers={**ticket(session, agent), "X-Loadsplit-On-Busy": "interrupt"})
    assert (answer.status, answer.json["message"]) == (200, "Plain words.")
    rest = list(stream)
    assert [e.type for e in rest] == ["cancelled"]
    again = there.ask("how are you?", session, agent_id=agent, headers=ticket(session, agent))
    assert (again.status, again.json["message"]) == (200, "Plain words.")
    messages = history(there, session)
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user", "assistant"]
    assert messages[1]["tool_calls"]


def test_one_key_on_both_replicas(split: Split) -> None:
    """Ten at once, five on each replica: one run. Another body: 422 on both."""

    def ask(client: Client, message: str = "one by one") -> Answer:
        return client.ask(message, "both-4", headers={"Idempotency-Key": "both-4", **ticket("both-4")})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, [h.client for h in split.heavy] * 5))
    assert {(a.status, a.body) for a in answers} == {(200, answers[0].body)}
    assert len(history(split.client, "both-4")) == 2
    for replica in split.heavy:
        refused = ask(replica.client, "something else")
        assert (refused.status, refused.json["code"]) == (422, "idempotency_mismatch")


def test_a_session_moves_to_the_other_replica(dead_replica: Split) -> None:
    """Its replica is killed: the other one has the full history, for the model, too, and a conversation goes on with its skill."""
    first, other = dead_replica.heavy[0], dead_replica.heavy[1].client
    assert first.client.ask("tell me something", "both-5", headers=ticket("both-5")).status == 200
    desk = Plan("skill", "returns_desk", "returns desk")
    assert (
        first.client.ask("returns desk, which one?", "both-5", headers=ticket("both-5", plan=desk)).json["message"] == "Which order is it?"
    )
    before = history(first.client, "both-5")
    first.kill()
    goes_on = other.ask("returns desk please", "both-5", headers=ticket("both-5"))
    assert goes_on.json["route"]["matched_by"] == "conversation"
    assert history(other, "both-5")[: len(before)] == before


def test_an_applied_call_whose_reply_is_lost(split: Split, odd_api: OddApi) -> None:
    """The same Idempotency-Key again, so one effect."""
    answer = split.client.ask("book lost", "both-6", agent_id="book-openai")
    assert answer.json["message"] == "It is booked."
    calls = [s.headers["idempotency-key"] for s in odd_api.seen if s.path.startswith("/apply?lose") and b"both-6" in s.body]
    assert len(calls) == 2
    assert len(set(calls)) == 1
    assert calls[0].startswith(answer.json["turn_id"])
    assert [len(keys) for body, keys in odd_api.applied.items() if "both-6" in body] == [1]


def killed_while_the_call_is_open(split: Split, odd_api: OddApi, message: str, session: str) -> dict[str, object]:
    """The turn after its replica was killed between the effect and the reply."""
    stream = split.client.stream(message, session, agent_id="book-openai")
    turn_id = stream.take(1)[0].data["turn_id"]
    wait_until_sync(lambda: any(session in body for body in odd_api.applied), "the API has done it")
    split.heavy[0].kill()
    stream.close()
    return ended(split.heavy[1].client, turn_id)


def test_killed_while_a_call_is_open(dead_replica: Split, odd_api: OddApi) -> None:
    """Another replica makes the call again, with the same key: one effect."""
    done = killed_while_the_call_is_open(dead_replica, odd_api, "book late", "both-7")
    assert (done["state"], done["attempt"]) == ("done", 2)
    (keys,) = [keys for body, keys in odd_api.applied.items() if "both-7" in body]
    assert len(keys) == 1
    assert len([s for s in odd_api.seen if s.path.startswith("/apply") and b"both-7" in s.body]) == 2


@pytest.mark.parametrize(("message", "step"), [("book once", ("tool", "once")), ("pay now", ("flow", "pay"))])
def test_a_call_that_must_not_be_made_twice(dead_replica: Split, odd_api: OddApi, message: str, step: tuple[str, str]) -> None:
    """`idempotent: false`: it is not made again; the turn ends with an error that names the step, and the session goes on."""
    session = f"both-8-{step[1]}"
    done = killed_while_the_call_is_open(dead_replica, odd_api, message, session)
    assert (done["state"], done["attempt"]) == ("failed", 2)
    error = done["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["status"], error["retryable"]) == ("upstream_error", 502, False)
    assert (error["step"]["action_type"], error["step"]["action_target"]) == step
    assert "may have been executed" in error["detail"]
    assert len([s for s in odd_api.seen if s.path.startswith("/apply") and session.encode() in s.body]) == 1
    other = dead_replica.heavy[1].client
    after = other.ask("how are you?", session, agent_id="book-openai", headers=ticket(session, "book-openai"))
    assert (after.status, after.json["message"]) == (200, "Plain words.")
