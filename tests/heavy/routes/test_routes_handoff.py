"""The human side of a hand-off over HTTP: accept, speak, release, the desk's list, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.in_process import InProcess
from tests.support.waiting import wait_until

HANDOFF = "/api/v1/session/s1/handoff"


async def act(shop: InProcess, action: str, **more: Any) -> tuple[int, Any]:
    return await shop.call("POST", HANDOFF, {"action": action, **more})


async def messages(shop: InProcess, session: str = "s1") -> list[tuple[str, str | None, str]]:
    _, document = await shop.call("GET", f"/api/v1/session/{session}?include=messages")
    return [(m["role"], m.get("author"), m["content"]) for m in document["messages"] if m["content"]]


async def test_a_whole_hand_off(shop: InProcess) -> None:
    async with shop.events() as events:  # before the session exists
        assert (await shop.ask("a human please"))["status"] == "transferred"
        first = await events.next()
        assert (first[0], first[1], first[2]["action"]) == (1, "session.transferred", "human")
        muted = await shop.ask("opening hours")
        assert (muted["status"], muted["message"]) == ("transferred", "")
        assert (await events.next())[2] == {"session_id": "s1", "from": "user", "text": "opening hours", "turn_id": muted["turn_id"]}

        status, document = await act(shop, "accept", by="ann")
        assert (status, document["workflow_state"]["status"], document["handoff"]["accepted_by"]) == (200, "transferred", "ann")
        assert (await events.next())[1:] == ("session.accepted", {"session_id": "s1", "by": "ann"})
        assert (await act(shop, "message", text="Ann here.", by="ann"))[0] == 200
        spoken = await events.next()
        assert (spoken[1], spoken[2]["from"], spoken[2]["text"]) == ("session.message", "human", "Ann here.")

        status, document = await act(shop, "release", text="We open later today.")
        assert (status, document["workflow_state"]["status"], document["last_event_id"]) == (200, "ready", 5)
        assert document["handoff"]["summary"] == "We open later today."
        assert await events.next() == (5, "session.released", {"session_id": "s1", "summary": "We open later today."})
    assert (await shop.ask("opening hours"))["route"]["tier"] == "lightweight"  # the gate is open again
    assert await messages(shop) == [
        ("user", None, "a human please"),
        ("assistant", None, "One moment."),
        ("user", None, "opening hours"),
        ("assistant", "human", "Ann here."),
        ("user", None, "opening hours"),
        ("assistant", None, "We open at 9."),
    ]
    _, turn = await shop.call("GET", f"/api/v1/turns/{spoken[2]['turn_id']}")
    assert (turn["state"], turn["result"]["message"]) == ("done", "Ann here.")


async def test_one_of_two_gets_the_session(shop: InProcess) -> None:
    await shop.ask("a human please")
    both = await asyncio.gather(act(shop, "accept", by="ann"), act(shop, "accept", by="bob"))
    assert sorted(status for status, _ in both) == [200, 409]
    winner = next(d["handoff"]["accepted_by"] for status, d in both if status == 200)
    loser = next(d for status, d in both if status == 409)
    assert (loser["code"], loser["accepted_by"], loser["retryable"]) == ("invalid_request", winner, False)
    assert (await act(shop, "accept", by=winner))[0] == 200
    _, document = await shop.call("GET", "/api/v1/session/s1")
    assert document["last_event_id"] == 2  # the same one again is no news


async def test_a_release_without_words_is_summed_up(shop: InProcess) -> None:
    """There is no model here, so it is the lines themselves."""
    await shop.ask("a human please")
    await shop.ask("my kettle is broken")
    await act(shop, "message", text="A new one is on its way.")
    _, document = await act(shop, "release")
    assert document["handoff"]["summary"] == "user: my kettle is broken\ncolleague: A new one is on its way."
    await shop.ask("a human please")
    _, document = await act(shop, "release")
    assert document["handoff"]["summary"] is None  # nobody has said a word


async def test_a_repeated_message_is_said_once(shop: InProcess) -> None:
    await shop.ask("a human please")
    key = {"Idempotency-Key": "k-1"}
    for _ in range(2):
        assert (await shop.call("POST", HANDOFF, {"action": "message", "text": "Hello."}, headers=key))[0] == 200
    assert [m for m in await messages(shop) if m[1] == "human"] == [("assistant", "human", "Hello.")]
    status, problem = await shop.call("POST", HANDOFF, {"action": "message", "text": "Bye."}, headers=key)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    await act(shop, "release", text="done")
    assert (await shop.call("POST", HANDOFF, {"action": "message", "text": "Hello."}, headers=key))[0] == 200


async def test_the_desk_lists_who_waits(shop: InProcess) -> None:
    assert await shop.call("GET", "/api/v1/sessions?status=transferred") == (200, {"sessions": []})
    for session in ("s1", "s2", "s3"):
        await shop.ask("a human please", session)
    await act(shop, "release", text="ok")
    _, found = await shop.call("GET", "/api/v1/sessions?status=transferred")
    assert [s["session_id"] for s in found["sessions"]] == ["s2", "s3"]
    assert found["sessions"][0]["handoff"]["action"] == "human"
    _, found = await shop.call("GET", "/api/v1/sessions?status=transferred&limit=1")
    assert [s["session_id"] for s in found["sessions"]] == ["s2"]


@pytest.mark.parametrize("query", ["", "?status=ready", "?status=transferred&limit=0", "?status=transferred&limit=9999"])
async def test_the_desk_asks_for_something_else(shop: InProcess, query: str) -> None:
    status, problem = await shop.call("GET", "/api/v1/sessions" + query)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", "limit" if "limit" in query else "status")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "action"),
        ({"action": "take"}, "action"),
        ({"action": ["accept"]}, "action"),
        ({"action": "message"}, "text"),
        ({"action": "message", "text": " \n"}, "text"),
        ({"action": "message", "text": "x" * 32769}, "text"),
        ({"action": "message", "text": 5}, "text"),
        ({"action": "release", "text": ""}, "text"),
        ({"action": "accept", "by": ""}, "by"),
        ({"action": "accept", "by": "x" * 257}, "by"),
    ],
)
async def test_bad_input_names_its_field(shop: InProcess, body: dict[str, Any], field: str) -> None:
    status, problem = await shop.call("POST", HANDOFF, body)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)


async def test_what_cannot_be(shop: InProcess) -> None:
    assert (await act(shop, "accept"))[0] == 404
    assert (await shop.call("POST", HANDOFF, b"{", headers={"content-type": "application/json"}))[0] == 400
    await shop.ask("opening hours")
    for action in ("accept", "message", "release"):
        status, problem = await act(shop, action, text="hello")
        assert (status, problem["code"], problem["session_status"]) == (409, "invalid_request", "ready")


async def test_nobody_comes_in_time(shop: InProcess) -> None:
    async with shop.events() as events:
        await shop.ask("hurry")
        assert (await events.next())[1] == "session.transferred"
        _, kind, data = await events.next()
        assert (kind, data["from"], data["timer_id"], data["text"]) == ("session.message", "timer", "handoff", "Nobody is free.")
    assert ("assistant", "timer", "Nobody is free.") in await messages(shop)
    _, document = await act(shop, "accept", by="ann")
    assert (document["handoff"]["told"], document["handoff"]["accepted_by"]) == (True, "ann")


async def test_somebody_came_in_time(shop: InProcess) -> None:
    await shop.ask("hurry")
    await act(shop, "accept")

    async def forgotten() -> bool:
        return not await shop.heavy.stores.timers.due(hold_seconds=0, limit=5)

    await wait_until(forgotten, "the deadline is forgotten")
    _, document = await shop.call("GET", "/api/v1/session/s1")
    assert document["handoff"]["told"] is False
