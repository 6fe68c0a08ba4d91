"""One suite for every database: sessions, their history and their erasure, migrations, and tenants that do not see each other."""

from __future__ import annotations

import asyncio

import pytest

from common.contracts.query import Usage
from heavy.storage.migrations import migrations
from heavy.storage.open import migrate, open_stores
from heavy.turns.stores import LeaseLost, Stores
from tests.support.turns import LEASE, answer, fence_of, journal_entry, new_turn, tool_step


async def fill(stores: Stores, turns: int) -> None:
    """`turns` turns of four messages each in session s1."""
    for i in range(1, turns + 1):
        turn = (await stores.turns.accept(new_turn(f"t_{i}"), owner="a", lease_seconds=LEASE)).turn
        await stores.turns.step(fence_of(turn), first_idx=1, messages=tool_step(i), usage=Usage())
        await stores.turns.finish(fence_of(turn), answer(first_idx=3))


async def places(stores: Stores, limit: int, before_seq: int | None = None) -> list[tuple[int, int]]:
    found = await stores.sessions.messages("acme", "s1", limit=limit, before_seq=before_seq)
    return [(m.turn_seq, m.idx) for m in found]


async def test_history_comes_oldest_first_in_whole_turns(stores: Stores) -> None:
    await fill(stores, 3)
    everything = [(seq, idx) for seq in (1, 2, 3) for idx in range(4)]
    assert await places(stores, 100) == everything
    assert await places(stores, 12) == everything
    assert await places(stores, 5) == everything[4:]
    assert await places(stores, 4) == everything[8:]
    assert await places(stores, 1) == everything[8:]
    assert await places(stores, 4, before_seq=3) == everything[4:8]
    assert await places(stores, 100, before_seq=1) == []
    assert await places(stores, 0) == []


async def test_an_unknown_session_is_none_and_has_no_messages(stores: Stores) -> None:
    assert await stores.sessions.get("acme", "s1") is None
    assert await places(stores, 10) == []
    assert await stores.turns.get("acme", "t_1") is None
    assert await stores.turns.turn_messages("acme", "t_1") == []
    assert await stores.sessions.count() == 0


async def test_tenants_do_not_see_each_other(stores: Stores) -> None:
    await fill(stores, 1)
    assert await stores.sessions.get("other", "s1") is None
    assert await stores.turns.get("other", "t_1") is None
    assert await stores.turns.turn_messages("other", "t_1") == []
    assert await stores.turns.claim("other", "t_1", owner="x", lease_seconds=LEASE) is None
    assert not await stores.sessions.delete("other", "s1")
    # the same ids in another tenant are another session and another turn
    twin = await stores.turns.accept(new_turn("t_1", tenant="other", agent_id="bank"), owner="a", lease_seconds=LEASE)
    assert (twin.new_session, twin.turn.seq) == (True, 1)
    assert await stores.sessions.count() == 2


async def test_delete_erases_everything_and_stops_a_running_turn(stores: Stores) -> None:
    await fill(stores, 2)
    running = (await stores.turns.accept(new_turn("t_3"), owner="a", lease_seconds=LEASE)).turn
    await stores.turns.record_rule_turns([journal_entry("t_other", "s2")])
    assert await stores.sessions.delete("acme", "s1")
    assert not await stores.sessions.delete("acme", "s1")
    assert await stores.sessions.get("acme", "s1") is None
    assert [await stores.turns.get("acme", t) for t in ("t_1", "t_3")] == [None, None]
    assert await places(stores, 10) == []
    with pytest.raises(LeaseLost):
        await stores.turns.finish(fence_of(running), answer())
    assert await stores.sessions.count() == 1
    again = await stores.turns.accept(new_turn("t_4"), owner="a", lease_seconds=LEASE)
    assert (again.new_session, again.turn.state) == (True, "running")


async def test_delete_beside_running_turns_leaves_nothing_behind(stores: Stores, other_stores: Stores) -> None:
    async def talk(who: Stores, number: int) -> None:
        for i in range(10):
            accepted = await who.turns.accept(new_turn(f"t_{number}_{i}"), owner="a", lease_seconds=LEASE)
            if accepted.turn.state == "running":
                try:
                    await who.turns.finish(fence_of(accepted.turn), answer())
                except LeaseLost:
                    continue

    async def erase() -> None:
        for _ in range(10):
            await other_stores.sessions.delete("acme", "s1")

    await asyncio.gather(*(talk(s, n) for n, s in enumerate([stores, other_stores] * 2)), erase())
    await stores.sessions.delete("acme", "s1")
    left = [await stores.turns.get("acme", f"t_{n}_{i}") for n in range(4) for i in range(10)]
    assert left == [None] * 40


async def test_migrations_run_once_also_when_replicas_start_together(database_url: str) -> None:
    opened = await asyncio.gather(*(open_stores(database_url) for _ in range(4)))
    for stores in opened:
        assert await stores.ping() < 1
        await stores.aclose()
        await stores.aclose()
    assert await migrate(database_url) == []


async def test_migrate_names_what_it_applied(database_url: str) -> None:
    assert await migrate(database_url) == [m.name for m in migrations("sqlite")]


def test_both_dialects_have_the_same_migrations() -> None:
    assert [m.name for m in migrations("sqlite")] == [m.name for m in migrations("postgres")]


@pytest.mark.parametrize("url", ["mysql://h/db", "sqlite://host/file", "sqlite:///", "loadsplit.db"])
async def test_a_url_of_no_known_database_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        await open_stores(url)
