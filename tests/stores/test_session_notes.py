"""One suite for every database: notes on a session, its events with their ids, hand-offs, and what erasing takes with it."""

from __future__ import annotations

import asyncio
from typing import Any

from heavy.llm.types import Message
from heavy.turns.rows import ArmTimer, Finish, Note, SessionEvent
from heavy.turns.stores import Stores
from tests.support.turns import accept, answer, fence_of, journal_entry, session_of, talk

BEGUN = {"action": "human", "since": 1.5, "by": None}
TAKEN = {**BEGUN, "by": "Ann"}


def event(number: int) -> SessionEvent:
    """An event that can be told from the others."""
    return SessionEvent(f"session.e{number}", {"session_id": "s1", "text": f"{number} \0 中文"})


def note(**values: Any) -> Note:
    """A note on session s1."""
    return Note("acme", "s1", **values)


def said(turn_id: str, text: str = "Hello, this is Ann.") -> dict[str, Any]:
    """What a note needs for a message of a human."""
    return {
        "turn_id": turn_id,
        "messages": [Message("assistant", text, author="human")],
        "reply": {"message": text},
        "request": {"by": "Ann"},
    }


async def ids(stores: Stores, after: int = 0, limit: int = 100) -> list[int]:
    return [e.id for e in await stores.sessions.events("acme", "s1", after=after, limit=limit)]


async def test_events_of_turns_are_numbered_without_gaps(stores: Stores) -> None:
    session = await talk(stores, "t_1", answer(events=[event(1), event(2)]))
    assert session.event_seq == 2
    assert (await talk(stores, "t_2")).event_seq == 2
    session = await talk(stores, "t_3", answer(events=[event(3)]))
    assert (session.event_seq, session == await session_of(stores)) == (3, True)
    stored = await stores.sessions.events("acme", "s1", after=0, limit=10)
    assert [(e.id, e.type, e.data) for e in stored] == [(i, event(i).type, event(i).data) for i in (1, 2, 3)]
    assert stored[2].at == session.updated_at
    assert await ids(stores, after=1) == [2, 3]
    assert await ids(stores, after=0, limit=2) == [1, 2]
    assert await ids(stores, after=3) == []
    assert await stores.sessions.events("other", "s1", after=0, limit=10) == []


async def test_a_hand_off_is_kept_until_it_is_replaced(stores: Stores) -> None:
    first = await talk(stores, "t_1", answer(session_status="transferred", handoff=BEGUN))
    assert (first.status, first.handoff) == ("transferred", BEGUN)
    assert (await talk(stores, "t_2")).handoff == BEGUN
    assert (await accept(stores, "t_3", session_id="s2")).session.handoff == {}


async def test_a_note_changes_what_it_names_and_nothing_else(stores: Stores) -> None:
    before = await talk(stores, "t_1", answer(session_status="transferred", handoff=BEGUN, profile={"name": "Li"}, current_skill="refund"))
    noted = await stores.sessions.note(note(handoff=TAKEN, events=[event(1)]))
    assert noted is not None
    assert (noted.status, noted.handoff, noted.event_seq, noted.turn_seq) == ("transferred", TAKEN, 1, 1)
    assert (noted.profile, noted.current_skill, noted.message_count) == (before.profile, "refund", 2)
    assert noted == await session_of(stores)
    released = await stores.sessions.note(note(session_status="ready"))
    assert released is not None
    assert (released.status, released.handoff, released.event_seq) == ("ready", TAKEN, 1)


async def test_a_note_with_messages_is_a_turn_that_is_done(stores: Stores) -> None:
    running = (await accept(stores, "t_1")).turn
    noted = await stores.sessions.note(note(**said("n_1"), events=[event(1)]))
    assert noted is not None
    assert (noted.turn_seq, noted.message_count, noted.active) == (2, 2, 1)
    turn = await stores.turns.get("acme", "n_1")
    assert turn is not None
    assert (turn.state, turn.seq, turn.agent_id, turn.config_hash, turn.request) == ("done", 2, "shop", "c1", {"by": "Ann"})
    assert (turn.reply, turn.finished_at) == ({"message": "Hello, this is Ann."}, noted.updated_at)
    messages = [m.message for m in await stores.turns.turn_messages("acme", "n_1")]
    assert messages == [Message("assistant", "Hello, this is Ann.", author="human")]
    assert await stores.sessions.note(note(**said("n_1"), events=[event(1)])) == noted
    assert await ids(stores) == [1]
    await stores.turns.finish(fence_of(running), answer())
    history = [m.message.content for m in await stores.sessions.messages("acme", "s1", limit=9)]
    assert history == ["question of t_1", "It is on its way.", "Hello, this is Ann."]
    assert (await session_of(stores)).message_count == 3


async def test_a_note_that_does_not_hold_changes_nothing(stores: Stores) -> None:
    assert await stores.sessions.note(note(session_status="ready")) is None
    assert await stores.sessions.note(note(**said("n_0"))) is None
    before = await talk(stores, "t_1", answer(handoff=BEGUN))
    wrong = {"session_status": "closed", "handoff": TAKEN, "events": [event(1)], **said("n_1")}
    assert await stores.sessions.note(note(statuses=("transferred", "closed"), **wrong)) is None
    assert await stores.sessions.note(note(before=TAKEN, **wrong)) is None
    assert await stores.sessions.note(Note("other", "s1", **wrong)) is None
    assert await session_of(stores) == before
    assert (await ids(stores), await stores.turns.get("acme", "n_1")) == ([], None)
    assert await stores.sessions.note(note(statuses=("closed", "ready"), before=BEGUN, **wrong)) is not None


async def test_a_note_repeated_at_once_is_stored_once(stores: Stores, other_stores: Stores) -> None:
    await talk(stores, "t_1")
    repeated = [s.sessions.note(note(**said("n_1"), events=[event(1)])) for s in (stores, other_stores) * 4]
    assert {n.turn_seq if n else None for n in await asyncio.gather(*repeated)} == {2}
    assert await ids(stores) == [1]


async def test_of_two_who_take_a_session_at_once_one_has_it(stores: Stores, other_stores: Stores) -> None:
    await talk(stores, "t_1", answer(session_status="transferred", handoff=BEGUN))
    takers = [{**BEGUN, "by": f"n{i}"} for i in range(6)]
    both = (stores, other_stores)
    results = await asyncio.gather(
        *(both[i % 2].sessions.note(note(before=BEGUN, handoff=t, events=[event(i)])) for i, t in enumerate(takers))
    )
    won = [r for r in results if r is not None]
    assert len(won) == 1
    assert await session_of(stores) == won[0]
    assert await ids(stores) == [1]


async def test_simultaneous_notes_and_turns_number_events_without_gaps(stores: Stores, other_stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    notes = [s.sessions.note(note(events=[event(0), event(1)])) for s in (stores, other_stores) * 10]
    await asyncio.gather(*notes, stores.turns.finish(fence_of(turn), answer(events=[event(2)])))
    assert await ids(stores) == list(range(1, 42))
    assert (await session_of(stores)).event_seq == 41


async def test_transferred_sessions_are_listed_longest_waiting_first(stores: Stores) -> None:
    for i in range(3):
        await talk(stores, f"t_{i}", answer(session_status="transferred"), session_id=f"s{i}")
    await talk(stores, "t_3", session_id="s3")
    await stores.turns.record_rule_turns([journal_entry("t_4", "s4", at=1000.0, reply={"status": "transferred"})])
    await stores.turns.record_rule_turns([journal_entry("t_5", "s3", at=1001.0, reply={"status": "transferred"})])
    # what happens while it waits leaves a session in its place
    await stores.sessions.note(Note("acme", "s0", handoff=TAKEN))
    await stores.turns.record_rule_turns([journal_entry("t_6", "s4", at=2000.0), journal_entry("t_7", "s1", at=9e9)])
    await talk(stores, "t_8", answer(session_status="transferred"), session_id="s4")
    assert [s.session_id for s in await stores.sessions.transferred("acme", limit=9)] == ["s4", "s3", "s0", "s1", "s2"]
    assert [s.session_id for s in await stores.sessions.transferred("acme", limit=2)] == ["s4", "s3"]
    assert await stores.sessions.transferred("other", limit=9) == []
    await stores.sessions.note(Note("acme", "s0", session_status="ready"))
    await talk(stores, "t_9", session_id="s3")
    await stores.turns.record_rule_turns([journal_entry("t_10", "s4", at=2001.0, reply={"status": "closed"})])
    assert [s.session_id for s in await stores.sessions.transferred("acme", limit=9)] == ["s1", "s2"]
    await stores.sessions.note(Note("acme", "s0", session_status="transferred"))
    assert [s.session_id for s in await stores.sessions.transferred("acme", limit=9)] == ["s1", "s2", "s0"]


async def test_erasing_a_session_takes_its_events_and_timers(stores: Stores) -> None:
    end = Finish("done", 1, events=[event(1)], timers=[ArmTimer("timer", "still_there", -1)])
    await talk(stores, "t_1", end)
    await talk(stores, "t_2", end, session_id="s2")
    assert await stores.sessions.delete("acme", "s1")
    assert await ids(stores) == []
    assert [t.session_id for t in await stores.timers.due(hold_seconds=0, limit=9)] == ["s2"]
    assert (await talk(stores, "t_3", end)).event_seq == 1
