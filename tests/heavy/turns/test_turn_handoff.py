"""The life of a hand-off as notes: who may take which step, and what the session and its watchers learn of it."""

from __future__ import annotations

from typing import Any

import pytest

from common.contracts.query import Usage
from common.errors import Conflict
from common.workflow.schema import SystemAction
from heavy.llm.types import Message
from heavy.turns import handoff
from heavy.turns.rows import ArmTimer, Note, SessionRow, StoredMessage, TurnRow

ACTION = SystemAction(action_id="human", handler="handoff", deadline_seconds=60, deadline_message="Still looking for someone.")


def turn() -> TurnRow:
    nothing: dict[str, Any] = {"owner": None, "lease_until": None, "cancel_requested": False, "plan": None, "reply": None, "error": None}
    times = {"created_at": 100.0, "started_at": 101.0, "finished_at": None}
    return TurnRow("acme", "s1", "t_1", "shop", 3, "running", 1, config_hash="c1", request={}, usage=Usage(), **nothing, **times)


def session(status: str = "transferred", **changed: Any) -> SessionRow:
    begun, _, _ = handoff.begin(ACTION, turn())
    state: dict[str, Any] = {"user_id": None, "status": status, "current_skill": None, "config_hash": "c1", "greeting": "", "profile": {}}
    counts: dict[str, Any] = {"turn_seq": 5, "active": 0, "message_count": 6, "usage": Usage(), "created_at": 1.0, "updated_at": 1.0}
    return SessionRow("acme", "s1", "shop", **state, **counts, handoff={**begun, **changed})


def kinds(note: Note) -> list[str]:
    return [event.type for event in note.events]


def test_it_begins_with_an_event_and_a_deadline() -> None:
    begun, timer, events = handoff.begin(ACTION, turn())
    assert (begun["action"], begun["turn_id"], begun["seq"], begun["since"]) == ("human", "t_1", 3, 101.0)
    assert begun["accepted_by"] is begun["released_at"] is begun["summary"] is None
    assert timer == ArmTimer("handoff", handoff.DEADLINE, 60)
    assert [(e.type, e.data) for e in events] == [("session.transferred", {"session_id": "s1", "turn_id": "t_1", "action": "human"})]


def test_without_a_deadline_no_timer_is_armed() -> None:
    for action in (None, SystemAction(action_id="human", handler="handoff")):
        assert handoff.begin(action, turn())[1] is None


def test_the_first_who_accepts_has_it() -> None:
    note = handoff.accept(session(), "ann", 200.0)
    assert note is not None
    assert note.handoff is not None
    assert (note.handoff["accepted_by"], note.handoff["accepted_at"], note.handoff["turn_id"]) == ("ann", 200.0, "t_1")
    assert note.before == session().handoff
    assert (note.statuses, note.session_status, note.messages) == (("transferred",), None, ())
    assert kinds(note) == ["session.accepted"]
    taken = session(accepted_by="ann")
    assert handoff.accept(taken, "ann", 201.0) is None
    with pytest.raises(Conflict) as other:
        handoff.accept(taken, "bob", 201.0)
    assert other.value.extra == {"accepted_by": "ann"}


@pytest.mark.parametrize("status", ["ready", "in_conversation", "closed"])
def test_only_a_transferred_session_is_with_a_human(status: str) -> None:
    row = session(status)
    steps = [
        lambda: handoff.accept(row, "ann", 1.0),
        lambda: handoff.message(row, "Hello", "ann", "t_9", 1.0),
        lambda: handoff.release(row, None, 1.0),
    ]
    for step in steps:
        with pytest.raises(Conflict) as wrong:
            step()
        assert (wrong.value.code, wrong.value.status, wrong.value.extra) == ("invalid_request", 409, {"session_status": status})


def test_who_speaks_first_has_accepted() -> None:
    note = handoff.message(session(), "Hello, Ann here", "ann", "t_9", 200.0)
    assert kinds(note) == ["session.accepted", "session.message"]
    assert note.handoff is not None
    assert note.handoff["accepted_by"] == "ann"
    assert list(note.messages) == [Message("assistant", "Hello, Ann here", author="human")]
    assert note.reply is not None
    assert (note.turn_id, note.reply["message"], note.reply["status"]) == ("t_9", "Hello, Ann here", "transferred")
    again = handoff.message(session(accepted_by="ann"), "And", "bob", "t_10", 201.0)
    assert kinds(again) == ["session.message"]
    assert again.events[0].data == {"session_id": "s1", "from": "human", "text": "And", "turn_id": "t_10"}
    assert again.handoff is again.before is None


def test_a_release_gives_the_session_back() -> None:
    note = handoff.release(session(accepted_by="ann"), "x" * 9000, 300.0)
    assert note.handoff is not None
    assert (note.session_status, note.handoff["released_at"], note.handoff["accepted_by"]) == ("ready", 300.0, "ann")
    assert note.handoff["summary"] == note.events[0].data["summary"] == "x" * handoff.MOST_SUMMARY
    assert kinds(note) == ["session.released"]
    bare = handoff.release(session(), "", 300.0)
    assert bare.handoff is not None
    assert bare.handoff["summary"] is None


def test_the_deadline_tells_the_user_once() -> None:
    note = handoff.overdue(session(), 3, "t_9", "en")
    assert note is not None
    assert list(note.messages) == [Message("assistant", "Still looking for someone.", author="timer")]
    assert note.events[0].data == {
        "session_id": "s1", "from": "timer", "text": "Still looking for someone.", "turn_id": "t_9", "timer_id": "handoff",
    }  # fmt: skip
    assert note.handoff is not None
    assert note.handoff["told"] is True
    default = handoff.overdue(session(deadline_message=None), 3, "t_9", "zh")
    assert default is not None
    assert "人工客服" in default.messages[0].content


@pytest.mark.parametrize("changed", [{"accepted_by": "ann"}, {"told": True}, {"seq": 4}])
def test_a_deadline_that_does_not_matter_any_more(changed: dict[str, Any]) -> None:
    assert handoff.overdue(session(**changed), 3, "t_9", "en") is None
    assert handoff.overdue(session("ready"), 3, "t_9", "en") is None


def test_what_was_said_since() -> None:
    said = [
        (3, Message("user", "a human please")),
        (3, Message("assistant", "One moment.")),
        (4, Message("user", "my parcel is gone")),
        (4, Message("assistant", "")),
        (5, Message("assistant", "I send a new one.", author="human")),
    ]
    stored = [StoredMessage(seq, f"t_{seq}", i, message, 1.0) for i, (seq, message) in enumerate(said)]
    lines = handoff.since(session().handoff, stored)
    assert lines == ["user: my parcel is gone", "colleague: I send a new one."]
    assert handoff.plain_summary(lines) == "user: my parcel is gone\ncolleague: I send a new one."
    assert handoff.plain_summary([]) is None
    long = handoff.plain_summary([f"user: {n} " + "x" * 1000 for n in range(100)]) or ""
    assert len(long) <= handoff.MOST_SUMMARY
    assert "user: 99 " in long
    assert "user: 1 " not in long
