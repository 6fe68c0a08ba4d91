"""However a turn ends (cancelled while it waits or runs, deadline, lost database, lost lease), it ends once and its readers see it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from common.contracts.events import TERMINAL, event_type
from common.errors import InvalidRequest, Overloaded
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from heavy.llm.types import Message
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import Finish, SessionRow
from heavy.turns.stores import DatabaseUnavailable, Stores
from tests.support.node import Node, node
from tests.support.turns import answer, fence_of
from tests.support.waiting import wait_until


def types(events: list[tuple[int, bytes]]) -> list[str]:
    return [event_type(line) for _, line in events]


def ids(events: list[tuple[int, bytes]]) -> list[int]:
    return [number for number, _ in events]


async def test_a_turn_is_done_and_leaves_nothing_behind(here: Node) -> None:
    await here.say("t_1")
    events = await here.events("t_1")
    assert types(events) == ["start", "route", *["text"] * 5, "complete"]
    await here.idle()
    assert (await here.row("t_1")).state == "done"
    assert here.owner.all() == []
    assert await here.events("t_1") == events


async def test_cancel_while_running(here: Node) -> None:
    here.gateway.open.clear()
    turn = await here.talking(await here.say("t_1"))
    here.owner.cancel("t_1", "enough")
    here.owner.cancel("t_1", "again")
    assert types(await here.events("t_1"))[-1] == "cancelled"
    await here.idle()
    assert (await here.row("t_1")).state == "cancelled"
    assert here.gateway.closed == 1
    assert event_type(turn.events.lines[-1]) == "cancelled"
    here.gateway.open.set()
    await here.say("t_2")
    assert types(await here.events("t_2"))[-1] == "complete"


async def test_cancel_while_a_step_is_committed(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the step was written decides what the end is written behind: the session counts its messages rightly."""
    written, go_on = asyncio.Event(), asyncio.Event()
    step = here.stores.turns.step

    async def slow(*arguments: Any, **more: Any) -> None:
        await step(*arguments, **more)
        written.set()
        await go_on.wait()

    monkeypatch.setattr(here.stores.turns, "step", slow)
    here.gateway.calls = 1
    await here.say("t_1")
    await written.wait()
    here.owner.cancel("t_1", "enough")
    go_on.set()
    assert types(await here.events("t_1"))[-1] == "cancelled"
    await here.idle()
    session = await here.stores.sessions.get("acme", "s1")
    stored = await here.stores.sessions.messages("acme", "s1", limit=100)
    assert session is not None
    assert [m.message.role for m in stored] == ["user", "assistant"]
    assert session.message_count == 2
    await here.say("t_2")
    assert types(await here.events("t_2"))[-1] == "complete"


async def test_cancel_while_waiting_for_another_turn(here: Node) -> None:
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    await here.say("t_2")
    await here.say("t_3")
    await here.stores.turns.cancel("acme", "t_2")
    await here.owner.cancel_anywhere("t_2", "cancelled")
    assert types(await here.events("t_2")) == ["start", "cancelled"]
    here.gateway.open.set()
    assert types(await here.events("t_3"))[-1] == "complete"
    await here.idle()
    assert [(await here.row(t)).state for t in ("t_1", "t_2", "t_3")] == ["done", "cancelled", "done"]


async def test_a_turn_that_is_cancelled_before_it_says_anything_has_a_start(here: Node) -> None:
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    waiting = await here.say("t_2")
    assert isinstance(waiting, OwnedTurn)
    waiting.cancelled = "enough"
    here.gateway.open.set()
    await here.idle()
    assert types(await here.events("t_2")) == ["start", "cancelled"]
    assert [event_type(line) for line in waiting.events.lines] == ["start", "cancelled"]


async def test_a_cancel_request_that_no_message_brought_is_found(here: Node) -> None:
    here.owner.lease_seconds = 0.08
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    await here.stores.turns.cancel("acme", "t_1")
    leases = asyncio.create_task(here.owner.keep_leases())
    try:
        assert types(await here.events("t_1"))[-1] == "cancelled"
    finally:
        leases.cancel()


async def test_the_deadline_ends_a_running_and_a_waiting_turn(here: Node) -> None:
    here.gateway.open.clear()
    await here.say("t_1", deadline=time.time() + 0.3)
    waiting = await here.say("t_2", deadline=time.time() + 0.1)
    assert isinstance(waiting, OwnedTurn)
    await waiting.events.wait_end()
    assert waiting.error is not None
    assert waiting.error.code == "deadline_exceeded"
    assert types(await here.events("t_1"))[-1] == "error"
    error = (await here.row("t_1")).error
    assert error is not None
    assert error["code"] == "deadline_exceeded"
    assert (await here.row("t_2")).state == "cancelled"


async def test_many_waiters_run_in_order(here: Node) -> None:
    turns = [await here.say(f"t_{n}", f"number {n}") for n in range(8)]
    for turn in turns:
        assert types(await here.events(turn.turn_id))[-1] == "complete"
    stored = await here.stores.sessions.messages("acme", "s1", limit=100)
    assert [m.message.content for m in stored if m.message.role == "user"] == [f"number {n}" for n in range(8)]


async def test_shutdown_leaves_the_turn_to_its_lease_and_another_node_ends_it(stores: Stores, hotstore: MemoryHotStore) -> None:
    async with node(stores, hotstore) as first:
        first.gateway.open.clear()
        turn = await first.talking(await first.say("t_1"))
        seen = len(turn.events.lines)
        await first.turns.drain(0)
        with pytest.raises(Overloaded) as refused:
            await first.say("t_2")
        assert refused.value.retry_after == 1
    row = await stores.turns.get("acme", "t_1")
    assert row is not None
    assert row.state == "running"
    async with node(stores, hotstore) as second:
        await take_over(stores, second, "t_1")
        events = await second.events("t_1")
        assert ids(events) == list(range(1, len(events) + 1))
        assert types(events)[-1] == "complete"
        assert types(events).count("start") == 1
        assert seen < len(events)
        last = await second.row("t_1")
        assert last.attempt == 2
        assert last.reply is not None
        assert last.reply["message"] == "you said hello there friend"


async def test_a_cancel_request_survives_the_node(stores: Stores, hotstore: MemoryHotStore) -> None:
    async with node(stores, hotstore) as first:
        first.gateway.open.clear()
        await first.talking(await first.say("t_1"))
    await stores.turns.cancel("acme", "t_1")
    async with node(stores, hotstore) as second:
        await take_over(stores, second, "t_1")
        assert types(await second.events("t_1"))[-1] == "cancelled"
        assert not second.gateway.requests
        stored = await stores.sessions.messages("acme", "s1", limit=10)
        assert [(m.message.role, m.message.content) for m in stored] == [("user", "hello there friend"), ("assistant", "you")]


async def test_a_second_attempt_that_is_cancelled_at_once_ends_behind_the_first(stores: Stores, hotstore: MemoryHotStore) -> None:
    """The session counts what the first attempt has written, and what it cost."""
    async with node(stores, hotstore) as first:
        first.gateway.calls = 1
        first.gateway.open.clear()
        await first.talking(await first.say("t_1"))
    await stores.turns.cancel("acme", "t_1")
    before = await stores.turns.get("acme", "t_1")
    assert before is not None
    assert before.usage.llm_calls == 1
    async with node(stores, hotstore) as second:
        await take_over(stores, second, "t_1")
        await second.events("t_1")
        await second.idle()
    session = await stores.sessions.get("acme", "s1")
    stored = await stores.sessions.messages("acme", "s1", limit=10)
    assert session is not None
    assert [m.message.role for m in stored] == ["user", "assistant", "tool", "assistant"]
    assert (session.message_count, session.usage.llm_calls) == (4, 1)


async def test_the_old_owner_thaws(stores: Stores, hotstore: MemoryHotStore) -> None:
    """Its lease moved while it was frozen: what it writes is refused, and its own readers see the other node's end."""
    async with node(stores, hotstore) as old, node(stores, hotstore) as new:
        old.gateway.open.clear()
        turn = await old.talking(await old.say("t_1"))
        following = asyncio.create_task(old.events("t_1"))
        await take_over(stores, new, "t_1")
        assert types(await new.events("t_1"))[-1] == "complete"
        old.gateway.open.set()
        assert types(await following)[-1] == "complete"
        await old.idle()
        assert turn.events.abandoned
        stored = await stores.sessions.messages("acme", "s1", limit=10)
        assert [m.message.role for m in stored] == ["user", "assistant"]


async def test_a_node_takes_over_its_own_turn(here: Node) -> None:
    """Frozen past its lease, a node may find its own turn before it renews: the new attempt stays registered, the old one stops."""
    here.gateway.open.clear()
    old = await here.talking(await here.say("t_1"))
    await take_over(here.stores, here, "t_1")
    new = here.owner.get("t_1")
    assert new is not old
    await wait_until(lambda: old.task is not None and old.task.done(), "the old attempt has stopped")
    assert here.owner.get("t_1") is new
    here.gateway.open.set()
    assert types(await here.events("t_1"))[-1] == "complete"


@pytest.mark.parametrize("lost", [False, True])
async def test_the_log_lacks_the_end_that_the_database_has(stores: Stores, hotstore: MemoryHotStore, lost: bool) -> None:
    """The node died between its last commit and the last event."""
    async with node(stores, hotstore) as first:
        first.gateway.open.clear()
        turn = await first.talking(await first.say("t_1"))
        told = len(turn.events.lines)
    row = await stores.turns.get("acme", "t_1")
    assert row is not None
    await stores.turns.finish(fence_of(row), done("you said hello there friend"))
    if lost:
        await hotstore.delete(keys.events("t_1"))
    async with node(stores, hotstore) as second:
        everything = await second.events("t_1")
        assert ids(everything) == list(range(1, len(everything) + 1))
        assert types(everything) == ["start", "route", *(["text"] if lost else ["text", "text"]), "complete"]
        for after in (told, 50):
            rest = await second.events("t_1", after)
            assert sum(kind in TERMINAL for kind in types(rest)) == 1
            assert ids(rest)[0] == after + 1


def done(text: str) -> Finish:
    route = {"tier": "heavy", "action_type": "skill", "action_target": "talk", "matched_by": "rule", "pattern": "talk"}
    return answer(text, reply={"message": text, "route": route})


async def test_the_database_goes_away_before_the_end(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is told, nobody hangs, the turn stays for whoever has the database next."""
    kept = here.stores.turns.finish

    async def away(*args: object) -> SessionRow:
        raise DatabaseUnavailable("the database is unavailable")

    monkeypatch.setattr(here.stores.turns, "finish", away)
    turn = await here.say("t_1")
    assert isinstance(turn, OwnedTurn)
    async with asyncio.timeout(5):
        await turn.events.wait_end()
    assert isinstance(turn.error, DatabaseUnavailable)
    await here.idle()
    monkeypatch.setattr(here.stores.turns, "finish", kept)
    await take_over(here.stores, here, "t_1")
    assert types(await here.events("t_1"))[-1] == "complete"


async def test_what_was_shown_before_a_failure_is_kept_once(here: Node) -> None:
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    here.owner.cancel("t_1", "enough")
    await here.idle()
    stored = await here.stores.sessions.messages("acme", "s1", limit=10)
    assert [m.message for m in stored] == [Message("user", "hello there friend"), Message("assistant", "you")]


async def test_a_repeated_request_is_one_turn(here: Node) -> None:
    both = await asyncio.gather(here.say("t_1"), here.say("t_1"))
    assert types(await here.events("t_1"))[-1] == "complete"
    await here.idle()
    again = await here.say("t_1")
    assert not isinstance(again, OwnedTurn)
    assert again.state == "done"
    assert len(here.gateway.requests) == 1
    assert {t.turn_id for t in both} == {"t_1"}


async def test_limits_and_foreign_sessions(stores: Stores, hotstore: MemoryHotStore) -> None:
    async with node(stores, hotstore, max_inflight=2) as small:
        small.gateway.open.clear()
        results = await asyncio.gather(*(small.say(f"t_{n}", session=f"s{n}") for n in range(5)), return_exceptions=True)
        assert sum(isinstance(r, Overloaded) for r in results) == 3
        small.gateway.open.set()
        await small.idle()
        with pytest.raises(InvalidRequest) as wrong:
            await small.say("t_9", session="s0", agent_id="other")
        assert wrong.value.extra["field"] == "agent_id"
        assert small.turns.room == 2


async def take_over(stores: Stores, by: Node, turn_id: str) -> None:
    """The lease runs out and this node finds the turn."""
    rows = await stores.turns.renew((await by.row(turn_id)).owner or "", [turn_id], lease_seconds=-1)
    assert rows == [turn_id]
    (row,) = await stores.turns.take_over(owner=by.owner.name, lease_seconds=10, limit=5)
    by.turns.resume(row)
