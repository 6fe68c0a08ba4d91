"""A hand-off: the bot is mute, what the user writes is kept and pushed to the human, who answers through the API and hands back."""

from __future__ import annotations

import itertools
from typing import Any

from tests.support.client import Client, EventStream
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def desk(client: Client, session: str, action: str, **fields: Any) -> Any:
    return client.call("POST", f"/api/v1/session/{session}/handoff", {"action": action, **fields})


def status(client: Client, session: str) -> str:
    return str(client.call("GET", f"/api/v1/session/{session}").json["workflow_state"]["status"])


def events(client: Client, session: str, count: int, after: int = 0) -> list[tuple[str, Any]]:
    """The next events of a session: (type, data)."""
    stream: EventStream = client.get_stream(f"/api/v1/session/{session}/events?starting_after={after}")
    found = [(e.type, e.data) for e in itertools.islice(stream, count)]
    stream.close()
    return found


def test_from_hand_over_to_release(desks: Client) -> None:
    assert desks.ask("talk to a human", "human-1", agent_id="desk").json["status"] == "transferred"
    muted = desks.ask("my parcel is gone", "human-1", agent_id="desk").json
    assert (muted["message"], muted["status"]) == ("", "transferred")
    assert desks.ask("opening hours", "human-1", agent_id="desk").json["message"] == ""  # rules are mute too
    assert desk(desks, "human-1", "accept", by="ada").status == 200
    assert desk(desks, "human-1", "message", text="I call you on Monday.", by="ada").status == 200
    assert ("assistant", "I call you on Monday.") in desks.messages("human-1")
    assert desk(desks, "human-1", "release").status == 200
    assert status(desks, "human-1") == "ready"
    told = events(desks, "human-1", 6)
    assert [t for t, _ in told] == [
        "session.transferred",
        "session.message",
        "session.message",
        "session.accepted",
        "session.message",
        "session.released",
    ]
    assert [(d["from"], d["text"]) for t, d in told if t == "session.message"] == [
        ("user", "my parcel is gone"),
        ("user", "opening hours"),
        ("human", "I call you on Monday."),
    ]
    assert told[-1][1]["summary"] == "The colleague promised a call on Monday."
    assert desks.ask("what happens now?", "human-1", agent_id="desk").json["message"] == "You get a call on Monday."
    assert desks.ask("opening hours", "human-1", agent_id="desk").json["message"] == "We open at 9."


def test_two_colleagues(desks: Client) -> None:
    desks.ask("talk to a human", "human-2", agent_id="desk")
    assert desk(desks, "human-2", "accept", by="ada").status == 200
    assert desk(desks, "human-2", "accept", by="ada").status == 200
    assert desk(desks, "human-2", "accept", by="bob").status == 409
    assert [t for t, _ in events(desks, "human-2", 2)] == ["session.transferred", "session.accepted"]


def test_the_deadline_is_told_once(desks: Client) -> None:
    desks.ask("talk to a human", "human-3", agent_id="busy")
    told = events(desks, "human-3", 2)  # waits for the second one
    assert told[1][0] == "session.message"
    assert (told[1][1]["from"], told[1][1]["text"]) == ("timer", "Everyone is busy.")
    assert status(desks, "human-3") == "transferred"
    assert desks.messages("human-3").count(("assistant", "Everyone is busy.")) == 1


def test_bad_requests(desks: Client) -> None:
    desks.ask("opening hours", "human-4", agent_id="desk")
    assert desk(desks, "human-4", "accept", by="ada").status == 409
    assert desk(desks, "human-none", "accept", by="ada").status == 404
    assert desk(desks, "human-4", "dance").json["field"] == "action"
    desks.ask("talk to a human", "human-5", agent_id="desk")
    assert desk(desks, "human-5", "message").json["field"] == "text"


def test_a_closed_session_begins_again(desks: Client) -> None:
    first = desks.ask("opening hours", "human-6", agent_id="desk").json
    assert first["message"] == "Welcome.\n\nWe open at 9."
    assert desks.ask("goodbye", "human-6", agent_id="desk").json["status"] == "closed"
    assert status(desks, "human-6") == "closed"
    again = desks.ask("opening hours", "human-6", agent_id="desk").json
    assert (again["message"], again["route"]["tier"]) == ("Welcome.\n\nWe open at 9.", "heavy")
    assert status(desks, "human-6") == "ready"
    assert desks.ask("opening hours", "human-6", agent_id="desk").json["route"]["tier"] == "lightweight"


def test_it_survives_the_death_of_every_process(desks_split: Split) -> None:
    client = desks_split.client
    client.ask("talk to a human", "human-7", agent_id="desk")
    client.ask("are you there?", "human-7", agent_id="desk")
    for process in (desks_split.lightweight, *desks_split.heavy):
        process.kill()
    for process in (desks_split.lightweight, *desks_split.heavy):
        process.start()
    assert client.ask("hello?", "human-7", agent_id="desk").json["status"] == "transferred"
    other = desks_split.heavy[1].client
    assert desk(other, "human-7", "accept", by="ada").status == 200
    assert desk(other, "human-7", "release", text="All is well.").json["workflow_state"]["status"] == "ready"
    texts = [d["text"] for t, d in events(other, "human-7", 5) if t == "session.message" and d["from"] == "user"]
    assert texts == ["are you there?", "hello?"]
    wait_until_sync(
        lambda: client.ask("opening hours", "human-7", agent_id="desk").json["message"] == "We open at 9.", "rules answer again"
    )
