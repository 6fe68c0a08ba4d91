"""One suite for every database: turns that await an approval, their decisions, and how a resumed turn keeps out of the others' way."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from common.contracts.query import Usage
from heavy.llm.types import Message
from heavy.storage.open import open_stores
from heavy.turns.rows import Finish, SessionEvent, SessionRow, TurnRow
from heavy.turns.stores import LeaseLost, Stores
from tests.support.turns import LEASE, accept, answer, fence_of, session_of, talk, tool_step
from tests.support.waiting import wait_until

ASKED = {"calls": [{"call_id": "c1"}, {"call_id": "c2"}], "decisions": {}}
HALF = {**ASKED, "decisions": {"c1": {"approved": True}}}
DECIDED = {**ASKED, "decisions": {"c1": {"approved": True}, "c2": {"approved": False}}}
ASK = SessionEvent("session.awaiting_approval", {"session_id": "s1"})
DECISION = SessionEvent("session.approval_decided", {"session_id": "s1"})


async def pause(stores: Stores, turn: TurnRow, **other: Any) -> SessionRow:
    """Two messages more, then the turn awaits ASKED."""
    values: dict[str, Any] = {
        "first_idx": 1,
        "messages": tool_step(),
        "usage": Usage(1, 10, 0, 5, 0.5),
        "approval": ASKED,
        "reply": {"status": "in_progress"},
        "events": [ASK],
    }
    return await stores.turns.pause(fence_of(turn), **{**values, **other})


async def decide(stores: Stores, approval: Any, before: Any = ASKED, *, resume: bool = False, turn_id: str = "t_1", **other: Any) -> Any:
    """Decides on t_1 as node b."""
    values: dict[str, Any] = {"owner": "b", "lease_seconds": LEASE, "events": [DECISION], **other}
    return await stores.turns.decide("acme", turn_id, before=before, approval=approval, resume=resume, **values)


async def test_a_paused_turn_has_no_owner_and_holds_nobody_up(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    session = await pause(stores, turn)
    assert (session.active, session.event_seq) == (0, 1)
    assert session == await session_of(stores)
    paused = await stores.turns.get("acme", "t_1")
    assert paused is not None
    assert (paused.state, paused.owner, paused.attempt, paused.approval) == ("awaiting_approval", None, 1, ASKED)
    assert (paused.reply, paused.usage, paused.finished_at) == ({"status": "in_progress"}, Usage(1, 10, 0, 5, 0.5), None)
    assert [m.idx for m in await stores.turns.turn_messages("acme", "t_1")] == [0, 1, 2]
    assert await stores.turns.renew("a", ["t_1"], lease_seconds=LEASE) == []
    assert await stores.turns.take_over(owner="c", lease_seconds=LEASE, limit=9) == []
    assert await stores.turns.claim("acme", "t_1", owner="c", lease_seconds=LEASE) is None
    for late in (pause(stores, turn), stores.turns.finish(fence_of(turn), answer())):
        with pytest.raises(LeaseLost):
            await late
    assert (await accept(stores, "t_2")).turn.state == "running"


async def test_awaiting_turns_are_found_oldest_first_in_their_session(stores: Stores) -> None:
    for turn_id in ("t_1", "t_2"):
        await pause(stores, (await accept(stores, turn_id)).turn)
    await pause(stores, (await accept(stores, "t_3", session_id="s2")).turn)
    await talk(stores, "t_4")
    assert [t.turn_id for t in await stores.turns.awaiting("acme", "s1")] == ["t_1", "t_2"]
    assert await stores.turns.awaiting("other", "s1") == []
    await stores.turns.cancel("acme", "t_1")
    assert [t.turn_id for t in await stores.turns.awaiting("acme", "s1")] == ["t_2"]


async def test_decisions_resume_the_turn_which_then_ends_as_any_other(stores: Stores, other_stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    first = await decide(other_stores, HALF)
    assert (first.state, first.owner, first.approval) == ("awaiting_approval", None, HALF)
    assert (await session_of(stores)).active == 0
    second = await decide(other_stores, DECIDED, HALF, resume=True)
    assert (second.state, second.owner, second.approval) == ("waiting", "b", DECIDED)
    assert second == await stores.turns.get("acme", "t_1")
    assert (await session_of(stores)).active == 1
    claimed = await other_stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    assert (claimed.state, claimed.attempt, claimed.usage) == ("running", 2, Usage(1, 10, 0, 5, 0.5))
    session = await other_stores.turns.finish(fence_of(claimed), answer(first_idx=3, usage=Usage(2, 30, 0, 9, 0.75)))
    assert (session.active, session.message_count, session.usage) == (0, 4, Usage(2, 30, 0, 9, 0.75))
    types = [(e.id, e.type) for e in await stores.sessions.events("acme", "s1", after=0, limit=9)]
    assert types == [(1, ASK.type), (2, DECISION.type), (3, DECISION.type)]


async def test_a_turn_can_be_paused_a_second_time(stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    await decide(stores, DECIDED, resume=True)
    claimed = await stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    await pause(stores, claimed, first_idx=3, messages=tool_step(2), approval=HALF)
    await decide(stores, DECIDED, HALF, resume=True)
    claimed = await stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    assert claimed.attempt == 3
    session = await stores.turns.finish(fence_of(claimed), answer(first_idx=5))
    assert (session.active, session.message_count) == (0, 6)


async def test_of_two_simultaneous_decisions_one_holds(stores: Stores, other_stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    both = await asyncio.gather(*(decide(s, d, resume=True) for s, d in ((stores, HALF), (other_stores, DECIDED)) * 2))
    won = [r for r in both if r is not None]
    assert len(won) == 1
    row, session = await stores.turns.get("acme", "t_1"), await session_of(stores)
    assert row is not None
    assert row.approval == won[0].approval
    assert (session.active, session.event_seq) == (1, 2)


async def test_a_decision_on_what_is_not_awaited_changes_nothing(stores: Stores) -> None:
    assert await decide(stores, DECIDED) is None
    turn = (await accept(stores, "t_1")).turn
    assert await decide(stores, DECIDED, {}, resume=True) is None
    await pause(stores, turn)
    assert await decide(stores, DECIDED, HALF, resume=True) is None
    assert await stores.turns.decide(
        "other", "t_1", before=ASKED, approval=DECIDED, resume=True, owner="b", lease_seconds=LEASE, events=[]
    ) is None  # fmt: skip
    session = await session_of(stores)
    assert (session.active, session.event_seq) == (0, 1)


async def test_cancelling_an_awaiting_turn_ends_it_with_what_it_has_cost(stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    running = (await accept(stores, "t_2")).turn
    cancelled = await stores.turns.cancel("acme", "t_1", reply={"reason": "user"})
    assert cancelled is not None
    assert (cancelled.state, cancelled.reply) == ("cancelled", {"reason": "user"})
    assert cancelled.finished_at is not None
    session = await session_of(stores)
    assert (session.active, session.message_count, session.usage) == (1, 4, Usage(1, 10, 0, 5, 0.5))
    assert await decide(stores, DECIDED, resume=True) is None
    assert (await stores.turns.finish(fence_of(running), answer())).active == 0


async def test_cancelling_a_resumed_turn_that_waits_counts_it_once(stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    await accept(stores, "t_2")
    await decide(stores, DECIDED, resume=True)
    assert (await session_of(stores)).active == 2
    await stores.turns.cancel("acme", "t_1")
    session = await session_of(stores)
    assert (session.active, session.message_count, session.usage) == (1, 4, Usage(1, 10, 0, 5, 0.5))


async def test_a_resumed_turn_waits_while_a_later_one_runs_and_goes_before_those_that_wait(stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    second = (await accept(stores, "t_2")).turn
    await accept(stores, "t_3")
    await decide(stores, DECIDED, resume=True)
    assert await stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE) is None
    assert (await stores.turns.finish(fence_of(second), answer())).active == 2
    assert await stores.turns.claim("acme", "t_3", owner="a", lease_seconds=LEASE) is None
    claimed = await stores.turns.claim("acme", "t_1", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    await stores.turns.finish(fence_of(claimed), answer(first_idx=3))
    assert await stores.turns.claim("acme", "t_3", owner="a", lease_seconds=LEASE) is not None


async def test_of_a_dead_node_the_running_turn_is_taken_over_before_the_resumed_one(stores: Stores) -> None:
    await pause(stores, (await accept(stores, "t_1")).turn)
    await accept(stores, "t_2", lease=-1)
    await decide(stores, DECIDED, resume=True, lease_seconds=-1)
    (running,) = await stores.turns.take_over(owner="c", lease_seconds=LEASE, limit=9)
    assert (running.turn_id, running.attempt) == ("t_2", 2)
    await stores.turns.finish(fence_of(running), Finish("done", 1, [Message("assistant", "x")]))
    (resumed,) = await stores.turns.take_over(owner="c", lease_seconds=LEASE, limit=9)
    assert (resumed.turn_id, resumed.state, resumed.approval) == ("t_1", "running", DECIDED)


async def test_however_decisions_claims_and_messages_meet_one_turn_runs_at_a_time(stores: Stores, other_stores: Stores) -> None:
    async def resumed(session_id: str) -> TurnRow | None:
        await decide(stores, DECIDED, resume=True, turn_id=f"p_{session_id}")
        return await stores.turns.claim("acme", f"p_{session_id}", owner="b", lease_seconds=LEASE)

    async def after(session_id: str, first: TurnRow) -> TurnRow | None:
        await other_stores.turns.finish(fence_of(first), answer())
        return await other_stores.turns.claim("acme", f"w_{session_id}", owner="c", lease_seconds=LEASE)

    sessions = [f"s{i}" for i in range(20)]
    firsts = []
    for s in sessions:
        await pause(stores, (await accept(stores, f"p_{s}", session_id=s)).turn)
        firsts.append((await accept(stores, f"r_{s}", session_id=s)).turn)
        await accept(stores, f"w_{s}", session_id=s)
    calls = [c for s, first in zip(sessions, firsts, strict=True) for c in (resumed(s), after(s, first))]
    results = await asyncio.gather(*calls)
    for one, other in zip(results[::2], results[1::2], strict=True):
        assert (one is None) or (other is None)
    for s in sessions:
        assert (await session_of(stores, s)).active == 2


async def test_a_claim_sees_the_turn_that_was_resumed_and_claimed_while_it_began(postgres_database: str) -> None:
    stores = await open_stores(postgres_database)
    other = await asyncpg.connect(postgres_database)
    try:
        await pause(stores, (await accept(stores, "t_1")).turn)
        second = (await accept(stores, "t_2")).turn
        await accept(stores, "t_3")
        await stores.turns.finish(fence_of(second), answer())
        async with other.transaction():  # stands for a decision and a claim that another node commits in this moment
            await other.execute("UPDATE sessions SET active = active + 1")
            claim = asyncio.create_task(stores.turns.claim("acme", "t_3", owner="a", lease_seconds=LEASE))
            await wait_until(lambda: claim.done() or other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"), "the claim waits")
            await other.execute("UPDATE turns SET state = 'running', owner = 'b' WHERE turn_id = 't_1'")
        assert await claim is None
    finally:
        await other.close()
        await stores.aclose()
