"""One suite for every database: what heavy.turns.stores promises about the life of a turn, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message, ToolCall
from heavy.turns.rows import Fence, Finish
from heavy.turns.stores import LeaseLost, Outrun, Stores
from tests.support.turns import LEASE, accept, answer, fence_of, journal_entry, session_of, talk, tool_step


async def test_the_first_turn_makes_the_session_and_runs_at_once(stores: Stores) -> None:
    accepted = await accept(stores, "t_1", plan={"action_type": "skill"})
    turn, session = accepted.turn, accepted.session
    assert accepted.new_session
    assert (turn.seq, turn.state, turn.attempt, turn.owner) == (1, "running", 1, "a")
    assert (session.agent_id, session.user_id, session.status, session.active, session.message_count) == ("shop", "u1", "ready", 1, 1)
    assert turn == await stores.turns.get("acme", "t_1")
    assert session == await stores.sessions.get("acme", "s1")
    assert turn.lease_until == pytest.approx(turn.created_at + LEASE)
    messages = await stores.turns.turn_messages("acme", "t_1")
    assert [(m.turn_seq, m.turn_id, m.idx, m.message) for m in messages] == [(1, "t_1", 0, Message("user", "question of t_1"))]


async def test_a_second_turn_waits_and_runs_when_the_first_has_ended(stores: Stores) -> None:
    first = (await accept(stores, "t_1")).turn
    second = await accept(stores, "t_2")
    assert (second.turn.state, second.turn.attempt, second.turn.seq, second.new_session) == ("waiting", 0, 2, False)
    assert second.session.active == 2
    assert await stores.turns.claim("acme", "t_2", owner="a", lease_seconds=LEASE) is None
    await stores.turns.finish(fence_of(first), answer())
    claimed = await stores.turns.claim("acme", "t_2", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    assert (claimed.state, claimed.attempt, claimed.owner) == ("running", 1, "b")
    assert claimed.started_at is not None
    assert await stores.turns.claim("acme", "t_2", owner="c", lease_seconds=LEASE) is None


async def test_twenty_simultaneous_turns_from_two_replicas_run_one_at_a_time_in_order(stores: Stores, other_stores: Stores) -> None:
    both = [stores, other_stores]
    accepted = await asyncio.gather(*(accept(both[i % 2], f"t_{i}", owner=f"n{i % 2}") for i in range(20)))
    turns = sorted((a.turn for a in accepted), key=lambda t: t.seq)
    assert [t.seq for t in turns] == list(range(1, 21))
    assert [t.state for t in turns] == ["running"] + ["waiting"] * 19
    current = turns[0]
    for following in turns[1:]:
        await both[following.seq % 2].turns.finish(fence_of(current), answer())
        claims = await asyncio.gather(*(both[t.seq % 2].turns.claim("acme", t.turn_id, owner="x", lease_seconds=LEASE) for t in turns))
        won = [c for c in claims if c is not None]
        assert [c.turn_id for c in won] == [following.turn_id]
        current = won[0]
    session = await stores.turns.finish(fence_of(current), answer())
    assert (session.active, session.turn_seq, session.message_count) == (0, 20, 40)


async def test_accept_repeated_changes_nothing(stores: Stores, other_stores: Stores) -> None:
    results = await asyncio.gather(*(accept(s, "t_1") for s in [stores, other_stores] * 5))
    assert {(r.turn.seq, r.turn.state, r.turn.attempt, r.session.turn_seq, r.session.active) for r in results} == {(1, "running", 1, 1, 1)}
    assert all(r.new_session for r in results)
    await stores.turns.finish(fence_of(results[0].turn), answer())
    again = await accept(stores, "t_1")
    assert (again.turn.state, again.turn.reply, again.session.active) == ("done", {"message": "It is on its way."}, 0)
    assert len(await stores.turns.turn_messages("acme", "t_1")) == 2


async def test_another_agent_can_not_enter_a_session(stores: Stores) -> None:
    await accept(stores, "t_1")
    with pytest.raises(InvalidRequest) as e:
        await accept(stores, "t_2", agent_id="bank")
    assert e.value.extra == {"field": "agent_id"}
    session = await stores.sessions.get("acme", "s1")
    assert session is not None
    assert (session.turn_seq, session.active) == (1, 1)


async def test_steps_and_finish_write_the_transcript_and_the_session(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    fence = fence_of(turn)
    await stores.turns.step(fence, first_idx=1, messages=tool_step(), usage=Usage(1, 10, 0, 5, 0.5))
    midway = await stores.turns.get("acme", "t_1")
    assert midway is not None
    assert midway.usage == Usage(1, 10, 0, 5, 0.5)
    end = answer(
        first_idx=3, usage=Usage(2, 30, 8, 9, 0.75), session_status="in_conversation", current_skill="refund",
        greeting="abcd", config_hash="c2", profile={"name": "Li"},
    )  # fmt: skip
    session = await stores.turns.finish(fence, end)
    assert (session.status, session.current_skill, session.greeting, session.config_hash) == ("in_conversation", "refund", "abcd", "c2")
    assert (session.profile, session.active, session.message_count) == ({"name": "Li"}, 0, 4)
    assert session.usage == Usage(2, 30, 8, 9, 0.75)
    assert session == await stores.sessions.get("acme", "s1")
    done = await stores.turns.get("acme", "t_1")
    assert done is not None
    assert (done.state, done.reply, done.error, done.usage) == ("done", {"message": "It is on its way."}, None, Usage(2, 30, 8, 9, 0.75))
    assert done.finished_at is not None
    messages = [m.message for m in await stores.turns.turn_messages("acme", "t_1")]
    assert messages == [Message("user", "question of t_1"), *tool_step(), Message("assistant", "It is on its way.")]


async def test_what_finish_leaves_empty_stays_as_it_was(stores: Stores) -> None:
    first = (await accept(stores, "t_1")).turn
    await stores.turns.finish(fence_of(first), answer(greeting="abcd", profile={"name": "Li"}, current_skill="refund"))
    second = (await accept(stores, "t_2")).turn
    session = await stores.turns.finish(fence_of(second), Finish("failed", 1, error={"code": "llm_error"}, usage=Usage(1, 1, 1, 1, 0.1)))
    assert (session.greeting, session.profile, session.config_hash, session.current_skill) == ("abcd", {"name": "Li"}, "c1", None)
    assert session.usage == Usage(2, 101, 51, 11, 0.101)
    failed = await stores.turns.get("acme", "t_2")
    assert failed is not None
    assert (failed.state, failed.error, failed.reply) == ("failed", {"code": "llm_error"}, None)


async def test_a_repeated_step_writes_its_messages_once(stores: Stores) -> None:
    fence = fence_of((await accept(stores, "t_1")).turn)
    for _ in range(2):
        await stores.turns.step(fence, first_idx=1, messages=tool_step(), usage=Usage(1, 10, 0, 5, 0.5))
    assert [m.idx for m in await stores.turns.turn_messages("acme", "t_1")] == [0, 1, 2]


async def test_an_old_attempt_can_write_nothing(stores: Stores, other_stores: Stores) -> None:
    old = fence_of((await accept(stores, "t_1", lease=-1)).turn)
    (taken,) = await other_stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=10)
    assert (taken.turn_id, taken.attempt, taken.owner, taken.state) == ("t_1", 2, "b", "running")
    with pytest.raises(LeaseLost):
        await stores.turns.step(old, first_idx=1, messages=tool_step(), usage=Usage())
    with pytest.raises(LeaseLost):
        await stores.turns.finish(old, answer("the late one"))
    assert await stores.turns.renew("a", ["t_1"], lease_seconds=LEASE) == []
    session = await other_stores.turns.finish(fence_of(taken), answer("the one"))
    assert (session.active, session.message_count) == (0, 2)
    with pytest.raises(LeaseLost):
        await other_stores.turns.finish(fence_of(taken), answer("twice"))
    assert [m.message.content for m in await stores.turns.turn_messages("acme", "t_1")] == ["question of t_1", "the one"]


async def test_an_unknown_fence_is_a_lost_lease(stores: Stores) -> None:
    with pytest.raises(LeaseLost):
        await stores.turns.finish(Fence("acme", "s1", "t_none", 1), answer())
    turn = (await accept(stores, "t_1")).turn
    with pytest.raises(LeaseLost):
        await stores.turns.step(Fence("other", "s1", "t_1", turn.attempt), first_idx=1, messages=[], usage=Usage())


async def test_take_over_finds_only_overdue_turns_that_are_first_in_their_session(stores: Stores, other_stores: Stores) -> None:
    await accept(stores, "t_1", lease=-1)
    await accept(stores, "t_2", lease=-1)
    await accept(stores, "t_3", session_id="s2", lease=LEASE)
    await accept(stores, "t_4", session_id="s3", lease=-5)
    assert [t.turn_id for t in await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=1)] == ["t_4"]
    results = await asyncio.gather(*(s.turns.take_over(owner="b", lease_seconds=LEASE, limit=10) for s in (stores, other_stores)))
    assert [t.turn_id for r in results for t in r] == ["t_1"]
    assert await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=10) == []
    first = await stores.turns.get("acme", "t_1")
    assert first is not None
    await stores.turns.finish(fence_of(first), answer())
    (waiting,) = await stores.turns.take_over(owner="b", lease_seconds=LEASE, limit=10)
    assert (waiting.turn_id, waiting.state, waiting.attempt) == ("t_2", "running", 1)


async def test_renew_keeps_running_and_waiting_turns_of_their_owner_only(stores: Stores) -> None:
    first = (await accept(stores, "t_1", lease=-1)).turn
    await accept(stores, "t_2", lease=-1)
    await accept(stores, "t_3", owner="b", lease=-1, session_id="s2")
    assert sorted(await stores.turns.renew("a", ["t_1", "t_2", "t_3", "t_none"], lease_seconds=LEASE)) == ["t_1", "t_2"]
    assert await stores.turns.renew("a", [], lease_seconds=LEASE) == []
    assert [t.turn_id for t in await stores.turns.take_over(owner="c", lease_seconds=LEASE, limit=9)] == ["t_3"]
    await stores.turns.finish(fence_of(first), answer())
    assert await stores.turns.renew("a", ["t_1", "t_2"], lease_seconds=LEASE) == ["t_2"]


async def test_an_owner_finds_the_running_turns_that_are_to_be_cancelled(stores: Stores) -> None:
    for turn_id, session, owner in (("t_1", "s1", "a"), ("t_2", "s1", "a"), ("t_3", "s2", "a"), ("t_4", "s3", "b")):
        assert (await accept(stores, turn_id, owner=owner, session_id=session)).new_turn
    assert not (await accept(stores, "t_1")).new_turn
    for turn_id in ("t_1", "t_2", "t_4"):
        await stores.turns.cancel("acme", turn_id)
    assert await stores.turns.cancel_requests("a") == {"t_1": "cancelled"}


async def test_cancelling_a_waiting_turn_ends_it_and_lets_the_next_one_run(stores: Stores) -> None:
    first = (await accept(stores, "t_1")).turn
    await accept(stores, "t_2")
    await accept(stores, "t_3")
    cancelled = await stores.turns.cancel("acme", "t_2", reply={"reason": "user"})
    assert cancelled is not None
    assert (cancelled.state, cancelled.reply) == ("cancelled", {"reason": "user"})
    assert cancelled.finished_at is not None
    assert cancelled == await stores.turns.cancel("acme", "t_2")
    session = await stores.turns.finish(fence_of(first), answer())
    assert session.active == 1
    assert await stores.turns.claim("acme", "t_2", owner="a", lease_seconds=LEASE) is None
    assert await stores.turns.claim("acme", "t_3", owner="a", lease_seconds=LEASE) is not None


async def test_cancelling_a_running_turn_asks_its_owner(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    asked = await stores.turns.cancel("acme", "t_1", reply={"reason": "user"})
    assert asked is not None
    assert (asked.state, asked.cancel_requested, asked.reply, asked.finished_at) == ("running", True, None, None)
    session = await stores.turns.finish(fence_of(turn), Finish("cancelled", 1, [Message("assistant", "It is")]))
    assert (session.active, session.message_count) == (0, 2)


async def test_cancelling_an_ended_or_unknown_turn_changes_nothing(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    await stores.turns.finish(fence_of(turn), answer())
    ended = await stores.turns.cancel("acme", "t_1")
    assert ended is not None
    assert (ended.state, ended.cancel_requested) == ("done", False)
    assert await stores.turns.cancel("acme", "t_none") is None
    assert await stores.turns.cancel("other", "t_1") is None


async def test_rule_turns_are_stored_in_order_once_and_make_their_sessions(stores: Stores) -> None:
    entries = [journal_entry(f"t_{i}", f"s{i % 3}", at=1000.0 + i, greeting="g1" if i == 3 else "") for i in range(12)]
    assert await stores.turns.record_rule_turns(entries) == 12
    assert await stores.turns.record_rule_turns([*entries, journal_entry("t_12", "s0", 1012.0), journal_entry("t_12", "s0", 1012.0)]) == 1
    assert await stores.turns.record_rule_turns([]) == 0
    session = await stores.sessions.get("acme", "s0")
    assert session is not None
    assert (session.turn_seq, session.active, session.message_count, session.status) == (5, 0, 10, "ready")
    assert (session.greeting, session.created_at, session.updated_at) == ("g1", 1000.0, 1012.0)
    messages = await stores.sessions.messages("acme", "s0", limit=100)
    asked = [f"t_{i}" for i in (0, 3, 6, 9, 12)]
    expected = [(t, r, f"{w} of {t}") for t in asked for r, w in (("user", "question"), ("assistant", "answer"))]
    assert [(m.turn_id, m.message.role, m.message.content) for m in messages] == expected
    turn = await stores.turns.get("acme", "t_4")
    assert turn is not None
    assert (turn.state, turn.seq, turn.reply, turn.finished_at) == ("done", 2, entries[4].reply, 1004.0)


async def test_rule_turns_that_two_movers_store_at_once_are_stored_once(stores: Stores, other_stores: Stores) -> None:
    entries = [journal_entry(f"t_{i}", f"s{i % 5}") for i in range(50)]
    counts = await asyncio.gather(*(s.turns.record_rule_turns(e) for s in (stores, other_stores) for e in (entries, entries[::-1])))
    assert sum(counts) == 50
    assert await stores.sessions.count() == 5
    for i in range(5):
        session = await stores.sessions.get("acme", f"s{i}")
        assert session is not None
        assert (session.turn_seq, session.message_count) == (10, 20)


async def test_a_rule_turn_beside_an_active_turn_keeps_the_order(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    await stores.turns.record_rule_turns([journal_entry("t_2", reply={"status": "transferred"})])
    session = await stores.sessions.get("acme", "s1")
    assert session is not None
    assert (session.active, session.turn_seq, session.status) == (1, 2, "transferred")
    assert (await stores.turns.finish(fence_of(turn), answer())).active == 0
    assert (await accept(stores, "t_3")).turn.state == "running"


async def test_any_text_comes_back_as_it_was(stores: Stores) -> None:
    nasty = "NUL \0 emoji 🛒 中文 'quotes\" \\u0000 \ud7ff"
    turn = (await accept(stores, "t_1", user_message=nasty, user_id="u\0x", request={"message": nasty, "n": [1, None, 1.5]})).turn
    message = Message("assistant", nasty, (ToolCall("c", "f", nasty),))
    await stores.turns.finish(fence_of(turn), Finish("done", 1, [message], {"message": nasty}))
    stored = await stores.turns.get("acme", "t_1")
    assert stored is not None
    assert (stored.request, stored.reply) == ({"message": nasty, "n": [1, None, 1.5]}, {"message": nasty})
    messages = [m.message for m in await stores.turns.turn_messages("acme", "t_1")]
    assert messages == [Message("user", nasty), message]
    session = await stores.sessions.get("acme", "s1")
    assert session is not None
    assert session.user_id == "u\ufffdx"


async def test_a_turn_that_no_words_begin_has_no_message_0_and_is_counted_right(stores: Stores) -> None:
    await talk(stores, "t_1")
    accepted = await accept(stores, "t_2", user_message=None)
    assert accepted.session.message_count == 2
    fence = fence_of(accepted.turn)
    assert await stores.turns.turn_messages("acme", "t_2") == []
    await stores.turns.step(fence, first_idx=0, messages=tool_step(), usage=Usage())
    session = await stores.turns.finish(fence, answer(first_idx=2))
    assert session.message_count == 5
    assert [m.idx for m in await stores.turns.turn_messages("acme", "t_2")] == [0, 1, 2]
    first = await accept(stores, "t_3", user_message=None, session_id="s2")
    assert (first.new_session, first.session.message_count) == (True, 0)


async def test_the_first_message_keeps_its_author(stores: Stores) -> None:
    await accept(stores, "t_1", user_message="(silence)", author="timer")
    (stored,) = await stores.turns.turn_messages("acme", "t_1")
    assert stored.message == Message("user", "(silence)", author="timer")


async def test_a_turn_that_follows_another_is_accepted_only_behind_it(stores: Stores) -> None:
    with pytest.raises(Outrun):
        await accept(stores, "t_9", after_seq=1)
    assert await stores.sessions.count() == 0
    first = (await accept(stores, "t_1")).turn
    with pytest.raises(Outrun):  # it has not ended
        await accept(stores, "t_9", after_seq=1)
    await stores.turns.finish(fence_of(first), answer())
    for wrong in (0, 2):
        with pytest.raises(Outrun):
            await accept(stores, "t_9", after_seq=wrong)
    with pytest.raises(InvalidRequest):
        await accept(stores, "t_9", after_seq=1, agent_id="bank")
    assert (await session_of(stores)).turn_seq == 1
    following = await accept(stores, "t_2", after_seq=1, user_message=None)
    assert (following.turn.seq, following.turn.state, following.new_turn) == (2, "running", True)
    assert (following.session.active, following.session.message_count) == (1, 2)
    assert following.turn == await stores.turns.get("acme", "t_2")
    again = await accept(stores, "t_2", after_seq=1, user_message=None)
    assert (again.new_turn, again.turn.seq) == (False, 2)


async def test_of_a_following_turn_and_simultaneous_messages_at_most_one_comes_first(stores: Stores, other_stores: Stores) -> None:
    async def place(who: Stores, turn_id: str, session_id: str, after_seq: int | None) -> tuple[int, str] | None:
        try:
            turn = (await accept(who, turn_id, session_id=session_id, after_seq=after_seq)).turn
        except Outrun:
            return None
        return turn.seq, turn.state

    for i in range(10):
        await talk(stores, f"t_{i}", session_id=f"s{i}")
    messages = [place(stores, f"m_{i}", f"s{i}", None) for i in range(10)]
    following = [place(other_stores, f"f_{i}", f"s{i}", 1) for i in range(10)]
    results = await asyncio.gather(*(c for both in zip(messages, following, strict=True) for c in both))
    for message, follower in zip(results[::2], results[1::2], strict=True):
        # either it follows turn 1 and the message waits behind it, or the message was first and nothing follows
        assert (message, follower) in [((3, "waiting"), (2, "running")), ((2, "running"), None)]


async def test_one_following_turn_is_accepted_once_by_two_replicas(stores: Stores, other_stores: Stores) -> None:
    await talk(stores, "t_1")
    results = await asyncio.gather(*(accept(s, "t_2", owner=o, after_seq=1) for s, o in ((stores, "a"), (other_stores, "b")) * 3))
    assert [r.new_turn for r in results].count(True) == 1
    assert {(r.turn.seq, r.turn.owner) for r in results} in [{(2, "a")}, {(2, "b")}]
    assert (await session_of(stores)).active == 1


async def test_turns_with_a_key_are_found_by_their_age(stores: Stores) -> None:
    """Newest first and of every tenant; words of a user that look like one have none."""
    await accept(stores, "t_1", session_id="s1", request={"message": 'say "fingerprint":"f9"'})
    await accept(stores, "t_2", session_id="s2", request={"message": "x", "fingerprint": "f2"})
    await accept(stores, "t_3", session_id="s3", tenant="other", request={"message": "x", "fingerprint": "f3"})
    await stores.turns.record_rule_turns([journal_entry("t_4", at=time.time() - 100, fingerprint="f4")])
    found = [("other", "t_3", "f3"), ("acme", "t_2", "f2"), ("acme", "t_4", "f4")]
    assert list(await stores.turns.keyed(1000, 10)) == found
    assert list(await stores.turns.keyed(50, 10)) == found[:2]
    assert list(await stores.turns.keyed(1000, 1)) == found[:1]
