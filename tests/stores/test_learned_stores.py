"""One suite for every database: learned routes from their first sighting to their end, hits, forgetting, and the log they are tried on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from common.contracts.query import Usage
from heavy.turns.learned_routes import LearnedKey, LearnedRow, Sighting
from heavy.turns.stores import Stores
from tests.support.turns import LEASE, answer, fence_of, journal_entry, new_turn

KEY = LearnedKey("acme", "shop", "hash-1", "d" * 32)
SEEN = Sighting(KEY, "where is it", '{"kind":"flow"}', "w1", repeat=2, ttl_seconds=100)


async def teach(stores: Stores, key: LearnedKey = KEY, *, at: float = 1000.0, times: int = 2, message: str = "where is it") -> LearnedRow:
    """Shows the same outcome to the store from so many sessions."""
    row = None
    for i in range(times):
        row = await stores.learned.observe(replace(SEEN, key=key, message=message, witness=f"w{i}"), at + i)
    assert row is not None
    return row


async def test_a_route_is_active_after_as_many_sessions_as_asked(stores: Stores) -> None:
    first = await stores.learned.observe(SEEN, 1000)
    assert first is not None
    assert (first.state, first.seen, first.message, first.expires_at) == ("candidate", 1, "", 1100)
    same_session = await stores.learned.observe(SEEN, 1001)
    assert same_session == first
    second = await stores.learned.observe(replace(SEEN, witness="w2"), 1010)
    assert second is not None
    assert (second.state, second.seen, second.message, second.expires_at) == ("active", 2, "where is it", 1110)
    assert await stores.learned.active("shop", "hash-1", now=1011, limit=10) == [second]
    assert await stores.learned.observe(replace(SEEN, witness="w3"), 1020) == second


async def test_a_different_outcome_blocks_the_message_until_it_expires(stores: Stores) -> None:
    await teach(stores)
    blocked = await stores.learned.observe(replace(SEEN, route='{"kind":"tool"}', witness="w9"), 1050)
    assert blocked is not None
    assert (blocked.state, blocked.message) == ("blocked", "")
    assert await stores.learned.active("shop", "hash-1", now=1051, limit=10) == []
    assert await stores.learned.observe(replace(SEEN, witness="w10"), 1060) == blocked
    anew = await stores.learned.observe(replace(SEEN, witness="w11"), 1150)
    assert anew is not None
    assert (anew.state, anew.seen) == ("candidate", 1)


async def test_a_choice_that_cannot_be_learned_contradicts_and_leaves_no_row_of_its_own(stores: Stores) -> None:
    unlearnable = replace(SEEN, route=None)
    assert await stores.learned.observe(unlearnable, 1000) is None
    assert await stores.learned.of_agent("acme", "shop", now=1000, limit=10) == []
    await stores.learned.observe(SEEN, 1000)
    blocked = await stores.learned.observe(unlearnable, 1001)
    assert blocked is not None
    assert blocked.state == "blocked"


async def test_an_expired_route_is_not_active_and_is_learned_anew(stores: Stores) -> None:
    row = await teach(stores)
    assert await stores.learned.active("shop", "hash-1", now=row.expires_at - 1, limit=10) == [row]
    assert await stores.learned.active("shop", "hash-1", now=row.expires_at, limit=10) == []
    assert await stores.learned.of_agent("acme", "shop", now=row.expires_at, limit=10) == []
    again = await stores.learned.observe(replace(SEEN, witness="w7"), row.expires_at)
    assert again is not None
    assert (again.state, again.seen) == ("candidate", 1)
    await stores.learned.prune(row.expires_at + 100)
    assert await stores.learned.forget("acme", "shop") == []


async def test_tenants_versions_and_agents_learn_by_themselves(stores: Stores) -> None:
    others = [replace(KEY, tenant="other"), replace(KEY, config_hash="hash-2"), replace(KEY, agent_id="bank")]
    rows = [await teach(stores, key) for key in (KEY, *others)]
    active = await stores.learned.active("shop", "hash-1", now=1010, limit=10)
    assert {r.key for r in active} == {KEY, others[0]}
    listed = await stores.learned.of_agent("acme", "shop", now=1010, limit=10)
    assert {r.key for r in listed} == {KEY, others[1]}
    assert set(await stores.learned.forget("acme", "shop")) == {KEY, others[1]}
    assert await stores.learned.of_agent("acme", "shop", now=1010, limit=10) == []
    assert await stores.learned.of_agent("other", "shop", now=1010, limit=10) == [rows[1]]


async def test_one_message_can_be_forgotten_by_itself(stores: Stores) -> None:
    other = replace(KEY, digest="e" * 32)
    await teach(stores)
    kept = await teach(stores, other)
    assert await stores.learned.forget("acme", "shop", KEY.digest) == [KEY]
    assert await stores.learned.of_agent("acme", "shop", now=1010, limit=10) == [kept]


async def test_hits_are_added_and_order_the_list(stores: Stores) -> None:
    other = replace(KEY, digest="e" * 32)
    await teach(stores)
    await teach(stores, other)
    await stores.learned.count_hits({other: 3, replace(KEY, digest="f" * 32): 1})
    await stores.learned.count_hits({other: 2, KEY: 1})
    listed = await stores.learned.of_agent("acme", "shop", now=1010, limit=10)
    assert [(r.key.digest, r.hits) for r in listed] == [(other.digest, 5), (KEY.digest, 1)]
    assert [r.hits for r in await stores.learned.of_agent("acme", "shop", now=1010, limit=1)] == [5]


async def test_two_nodes_that_see_a_message_at_once_count_both(stores: Stores, other_stores: Stores) -> None:
    seen = [replace(SEEN, witness=f"w{i}", repeat=100) for i in range(20)]
    await asyncio.gather(*(s.learned.observe(one, 1000) for i, one in enumerate(seen) for s in [(stores, other_stores)[i % 2]]))
    [row] = await stores.learned.of_agent("acme", "shop", now=1000, limit=10)
    assert row.seen == 20


async def test_a_message_with_a_zero_byte_is_kept(stores: Stores) -> None:
    row = await teach(stores, message="a\0b")
    [kept] = await stores.learned.active("shop", "hash-1", now=1010, limit=10)
    assert kept.key == row.key
    assert kept.message.startswith("a")


async def test_the_log_has_the_last_answered_messages_with_their_routes(stores: Stores) -> None:
    turn = (await stores.turns.accept(new_turn("t_1"), owner="a", lease_seconds=LEASE)).turn
    assert await stores.learned.log("acme", "shop", limit=10) == []
    await stores.turns.step(fence_of(turn), first_idx=1, messages=[], usage=Usage())
    await stores.turns.finish(fence_of(turn), answer())
    await stores.turns.record_rule_turns([journal_entry("t_2", "s2")])
    found = await stores.learned.log("acme", turn.agent_id, limit=10)
    assert len(found) == 2
    assert found[1].message == turn.request["message"]
    assert len(await stores.learned.log("acme", turn.agent_id, limit=1)) == 1
    assert await stores.learned.log("other", turn.agent_id, limit=10) == []
