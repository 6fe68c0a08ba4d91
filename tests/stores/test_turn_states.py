"""The state machine of heavy.turns.states holds in every database: nothing moves in a way that is not drawn, whatever is called when."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message
from heavy.storage.open import open_stores
from heavy.turns.rows import Finish, SessionEvent, TurnRow
from heavy.turns.states import ACTIVE, BEGINNINGS, TERMINAL, TRANSITIONS
from heavy.turns.stores import Busy, LeaseLost, Stores
from tests.support.turns import LEASE, accept, answer, fence_of, new_turn, session_of, talk

ERROR = {"code": "llm_error", "detail": "the model is away"}


async def postponed(stores: Stores, turn_id: str = "t_1", delay: float = 0.0, **other: object) -> TurnRow:
    """A turn that was running and is to begin again."""
    first = (await accept(stores, turn_id, **other)).turn
    await stores.turns.postpone(fence_of(first), first_idx=1, messages=[], usage=Usage(), error=ERROR, delay_seconds=delay)
    row = await stores.turns.get("acme", turn_id)
    assert row is not None
    return row


def test_the_drawing_is_closed() -> None:
    assert {after for states in TRANSITIONS.values() for after in states} <= TRANSITIONS.keys()
    assert all(not TRANSITIONS[state] for state in TERMINAL)
    assert BEGINNINGS & ACTIVE == ACTIVE


@pytest.mark.parametrize("seed", range(6))
async def test_a_random_life_keeps_to_the_drawing(stores: Stores, seed: int) -> None:
    """Every method at every moment, with fences of old attempts, too: each change of state is one that is drawn, at most one turn of a
    session runs, `active` counts what is active, and an ended turn never changes again."""
    dice = random.Random(seed)
    seen: dict[str, TurnRow] = {}
    for number in range(120):
        known = list(seen.values())
        turn = dice.choice(known) if known else None
        with contextlib.suppress(LeaseLost, Busy):
            await dice.choice(moves(stores, dice, turn, number))()
        rows = [await stores.turns.get("acme", i) for i in (*seen, f"t_{number:03d}")]
        now = {row.turn_id: row for row in rows if row is not None}
        for turn_id, row in now.items():
            check(seen.get(turn_id), row)
        running = [r.turn_id for r in now.values() if r.state == "running"]
        assert len(running) <= 1, running
        if now:
            assert (await session_of(stores)).active == sum(r.state in ACTIVE for r in now.values())
        seen = now
    assert {r.state for r in seen.values()} & TERMINAL


def check(before: TurnRow | None, after: TurnRow) -> None:
    """One turn between two looks."""
    if before is None:
        assert after.state in BEGINNINGS
    elif after.state != before.state or after.attempt != before.attempt:
        assert after.state in TRANSITIONS[before.state], f"{before.state} -> {after.state}"
        assert after.attempt >= before.attempt
    if before is not None and before.state in TERMINAL:
        assert after == before
    if after.state == "running" and before is not None and before.state != "running":
        assert after.attempt == before.attempt + 1
    assert (after.owner is not None) or after.state not in ACTIVE
    assert (after.finished_at is not None) == (after.state in TERMINAL)


def moves(stores: Stores, dice: random.Random, turn: TurnRow | None, number: int) -> list[Callable[[], Awaitable[object]]]:
    """What may be called now."""
    turns = stores.turns
    busy = dice.choice(("enqueue", "enqueue", "reject", "merge"))
    new = new_turn(f"t_{number:03d}", when_busy=busy)
    begin: list[Callable[[], Awaitable[object]]] = [lambda: turns.accept(new, owner="a", lease_seconds=dice.choice((LEASE, -1)))]
    if turn is None:
        return begin
    old = fence_of(turn)
    state = dice.choice(("done", "failed", "cancelled"))
    asks = {"calls": [], "decisions": {}, "n": number}
    decided = turn.approval or {}
    return [
        *begin,
        lambda: turns.claim("acme", turn.turn_id, owner="b", lease_seconds=LEASE),
        lambda: turns.take_over(owner="c", lease_seconds=dice.choice((LEASE, -1)), limit=2),
        lambda: turns.release("a", [turn.turn_id]),
        lambda: turns.cancel("acme", turn.turn_id, reason="changed my mind"),
        lambda: turns.finish(old, Finish(state, 1, [Message("assistant", "words")])),
        lambda: turns.finish(old, answer(first_idx=1)),
        lambda: turns.postpone(old, first_idx=1, messages=[], usage=Usage(), error=ERROR, delay_seconds=0),
        lambda: turns.reopen("acme", turn.turn_id, owner="d", lease_seconds=LEASE),
        lambda: turns.pause(old, first_idx=1, messages=[], usage=Usage(), approval=asks, reply={}, events=[SessionEvent("x", {})]),
        lambda: turns.decide(
            "acme", turn.turn_id, before=decided, approval={**decided, "y": 1}, resume=True, owner="e", lease_seconds=LEASE, events=[]
        ),
    ]


async def test_reject_gives_up_where_a_turn_is_active(stores: Stores) -> None:
    await accept(stores, "t_1")
    await accept(stores, "t_2")
    with pytest.raises(Busy) as refused:
        await accept(stores, "t_3", when_busy="reject")
    assert refused.value.extra == {"turn_id": "t_1"}  # the running one
    assert await stores.turns.get("acme", "t_3") is None
    assert (await session_of(stores)).turn_seq == 2
    assert (await accept(stores, "t_1", when_busy="reject")).turn.turn_id == "t_1"  # it is there already
    with pytest.raises(InvalidRequest):
        await accept(stores, "t_4", when_busy="reject", agent_id="another")


async def test_reject_runs_where_none_is(stores: Stores) -> None:
    assert (await accept(stores, "t_1", when_busy="reject")).turn.state == "running"
    await talk(stores, "t_2", session_id="s2")
    assert (await accept(stores, "t_3", session_id="s2", when_busy="reject")).turn.state == "running"


async def test_of_many_that_reject_one_runs(stores: Stores) -> None:
    tries = (accept(stores, f"t_{n}", when_busy="reject") for n in range(8))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(r, Busy) for r in results) == 7


async def test_messages_that_arrive_while_one_waits_become_one_turn(stores: Stores) -> None:
    running = (await accept(stores, "t_1")).turn
    waits = await accept(stores, "t_2", when_busy="merge", request={"message": "two", "context": {"a": 1}, "deadline": 5.0})
    assert (waits.turn.state, waits.new_turn) == ("waiting", True)
    joined = await accept(stores, "t_3", when_busy="merge", request={"message": "three", "context": {"b": 2}, "deadline": 9.0})
    assert (joined.turn.turn_id, joined.new_turn) == ("t_2", False)
    again = await accept(stores, "t_3", when_busy="merge", request={"message": "three"})
    assert again.turn == joined.turn
    assert joined.turn.request == {"message": "two\nthree", "context": {"a": 1, "b": 2}, "deadline": 9.0, "streaming": False}
    assert [m.message.content for m in await stores.turns.turn_messages("acme", "t_2")] == ["two\nthree"]
    session = await session_of(stores)
    assert (session.turn_seq, session.active, session.message_count) == (2, 2, 2)
    await stores.turns.finish(fence_of(running), answer())
    claimed = await stores.turns.claim("acme", "t_2", owner="a", lease_seconds=LEASE)
    assert claimed is not None
    assert claimed.request["message"] == "two\nthree"
    late = await accept(stores, "t_4", when_busy="merge")  # what runs takes nothing in
    assert (late.turn.turn_id, late.turn.state) == ("t_4", "waiting")
    assert (await accept(stores, "t_3", when_busy="merge")).turn.turn_id == "t_2"  # and what it took in stays in


async def test_nothing_merges_over_what_came_in_between(stores: Stores) -> None:
    await accept(stores, "t_1")
    await accept(stores, "t_2", when_busy="merge")
    await accept(stores, "t_3")
    own = await accept(stores, "t_4", when_busy="merge")
    assert own.turn.turn_id == "t_4"
    assert (await accept(stores, "t_2", when_busy="merge")).turn.turn_id == "t_2"  # the same request again
    assert (await session_of(stores)).turn_seq == 4


async def test_two_plans_cancel_out_when_turns_merge(stores: Stores) -> None:
    plan = {"action_type": "flow", "action_target": "hours"}
    await accept(stores, "t_1")
    await accept(stores, "t_2", when_busy="merge", plan=plan)
    assert (await accept(stores, "t_3", when_busy="merge", plan=plan)).turn.plan == plan
    assert (await accept(stores, "t_4", when_busy="merge", plan=None)).turn.plan is None


async def test_simultaneous_messages_merge_into_one(stores: Stores) -> None:
    await accept(stores, "t_1")
    await accept(stores, "t_2", when_busy="merge", request={"message": "first"})
    await asyncio.gather(*(accept(stores, f"t_{n}", when_busy="merge", request={"message": str(n)}) for n in range(3, 9)))
    row = await stores.turns.get("acme", "t_2")
    assert row is not None
    assert sorted(row.request["message"].splitlines()) == ["3", "4", "5", "6", "7", "8", "first"]


async def test_a_released_turn_may_be_taken_over_at_once(stores: Stores) -> None:
    first = (await accept(stores, "t_1")).turn
    await accept(stores, "t_2")
    await stores.turns.release("another", ["t_1"])
    assert await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=9) == []
    await stores.turns.release("a", ["t_1", "t_2"])
    taken = await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=9)
    assert [(t.turn_id, t.attempt, t.owner) for t in taken] == [("t_1", 2, "b")]
    with pytest.raises(LeaseLost):
        await stores.turns.finish(fence_of(first), answer())


async def test_a_postponed_turn_holds_nobody_up_and_begins_again(stores: Stores) -> None:
    row = await postponed(stores)
    assert (row.state, row.owner, row.tries, row.error) == ("accepted", None, 1, ERROR)
    assert (await session_of(stores)).active == 0
    assert (await talk(stores, "t_2")).turn_seq == 2
    opened = await stores.turns.reopen("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert opened is not None
    assert (opened.turn.state, opened.session.active, opened.new_turn) == ("waiting", 1, True)
    assert await stores.turns.reopen("acme", "t_1", owner="c", lease_seconds=LEASE) is None
    claimed = await stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    assert claimed.attempt == 2
    await stores.turns.finish(fence_of(claimed), answer())
    done = await stores.turns.get("acme", "t_1")
    assert done is not None
    assert (done.state, done.error) == ("done", None)


async def test_a_postponed_turn_waits_for_its_time(stores: Stores) -> None:
    row = await postponed(stores, delay=60.0)
    assert row.not_before > row.created_at + 50
    assert await stores.turns.reopen("acme", "t_1", owner="b", lease_seconds=LEASE) is None
    assert await stores.turns.reopen("acme", "t_none", owner="b", lease_seconds=LEASE) is None


async def test_a_postponed_turn_can_be_cancelled(stores: Stores) -> None:
    await postponed(stores)
    row = await stores.turns.cancel("acme", "t_1", reason="not needed")
    assert row is not None
    assert (row.state, row.cancel_reason) == ("cancelled", "not needed")
    assert (await session_of(stores)).active == 0


async def test_the_first_reason_stays(stores: Stores) -> None:
    await accept(stores, "t_1")
    await stores.turns.cancel("acme", "t_1", reason="interrupted")
    await stores.turns.cancel("acme", "t_1", reason="cancelled")
    assert await stores.turns.cancel_requests("a") == {"t_1": "interrupted"}


async def test_who_is_busy(stores: Stores) -> None:
    assert await stores.turns.busy("acme", "s1") is None
    first = (await accept(stores, "t_1")).turn
    await accept(stores, "t_2")
    busy = await stores.turns.busy("acme", "s1")
    assert busy is not None
    assert busy.turn_id == "t_1"
    assert await stores.turns.busy("other", "s1") is None
    await stores.turns.finish(fence_of(first), answer())
    waits = await stores.turns.busy("acme", "s1")
    assert waits is not None
    assert waits.turn_id == "t_2"


async def test_deleting_a_session_forgets_the_names_of_what_was_merged(stores: Stores) -> None:
    await accept(stores, "t_1")
    await accept(stores, "t_2", when_busy="merge")
    await accept(stores, "t_3", when_busy="merge")
    assert await stores.sessions.delete("acme", "s1")
    assert (await accept(stores, "t_3", when_busy="merge")).turn.turn_id == "t_3"


async def test_a_row_that_somebody_holds_does_not_hold_up_the_renewal_of_others(postgres_database: str) -> None:
    """A commit that waits for its session has locked its turn: its lease counts as held, and the others are renewed."""
    stores = await open_stores(postgres_database)
    holder = await asyncpg.connect(postgres_database)
    try:
        for n in (1, 2):
            await accept(stores, f"t_{n}", session_id=f"s{n}", lease=-1)
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM turns WHERE turn_id = 't_1' FOR UPDATE")
            async with asyncio.timeout(2):
                assert sorted(await stores.turns.renew("a", ["t_1", "t_2"], lease_seconds=LEASE)) == ["t_1", "t_2"]
        taken = await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=9)
        assert [t.turn_id for t in taken] == ["t_1"]
    finally:
        await holder.close()
        await stores.aclose()
