"""One suite for every database: timers are armed with the end of a turn, each is given to one caller, and stays until it is done."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from heavy.storage.open import open_stores
from heavy.storage.postgres.timers import DUE
from heavy.turns.rows import ArmTimer, TimerRow
from heavy.turns.stores import Stores
from tests.support.turns import LEASE, accept, answer, fence_of, journal_entry, session_of, talk

PAST = ArmTimer("timer", "still_there", -1, 2)


async def due(stores: Stores, hold: float = LEASE, limit: int = 100) -> list[TimerRow]:
    return list(await stores.timers.due(hold_seconds=hold, limit=limit))


async def test_a_timer_is_armed_by_the_end_of_its_turn(stores: Stores) -> None:
    await talk(stores, "t_0")
    session = await talk(stores, "t_1", answer(timers=[PAST, ArmTimer("handoff", "handoff", 3600)]))
    assert await due(stores) == [TimerRow("acme", "s1", "shop", "timer", "still_there", 2, 2, pytest.approx(session.updated_at - 1))]


async def test_a_timer_takes_the_place_of_the_one_of_its_kind(stores: Stores) -> None:
    await talk(stores, "t_1", answer(timers=[PAST, ArmTimer("handoff", "handoff", -5)]))
    await talk(stores, "t_2", answer(timers=[ArmTimer("timer", "close", -3, 3)]))
    assert [(t.kind, t.timer_id, t.position, t.seq) for t in await due(stores)] == [("handoff", "handoff", 0, 1), ("timer", "close", 3, 2)]
    await talk(stores, "t_3", answer(timers=[PAST, ArmTimer("timer", "close", -1)]))
    assert [(t.timer_id, t.seq) for t in await due(stores)] == [("close", 3)]


async def test_an_earlier_turn_that_ends_later_leaves_the_timer_of_the_later_one(stores: Stores) -> None:
    turn = (await accept(stores, "t_1")).turn
    await stores.turns.record_rule_turns([journal_entry("t_2")], {"shop": ArmTimer("timer", "later", 1)})
    await stores.turns.finish(fence_of(turn), answer(timers=[PAST]))
    assert [(t.timer_id, t.seq) for t in await due(stores)] == [("later", 2)]


async def test_due_timers_come_longest_overdue_first_and_are_held(stores: Stores) -> None:
    for i, delay in enumerate((-10, -30, 3600, -20)):
        await talk(stores, f"t_{i}", answer(timers=[ArmTimer("timer", f"d{delay}", delay)]), session_id=f"s{i}")
    assert [t.timer_id for t in await due(stores, limit=2)] == ["d-30", "d-20"]
    assert [t.timer_id for t in await due(stores, hold=-1)] == ["d-10"]
    (again,) = await due(stores)
    assert (again.timer_id, again.due_at < (await session_of(stores, "s0")).updated_at) == ("d-10", True)
    assert await due(stores) == []


async def test_each_timer_is_given_to_one_of_two_replicas(stores: Stores, other_stores: Stores) -> None:
    timers = {"shop": ArmTimer("timer", "x", -1)}
    await stores.turns.record_rule_turns([journal_entry(f"t_{i}", f"s{i}") for i in range(60)], timers)
    batches = await asyncio.gather(*(due(s, limit=10) for s in (stores, other_stores) * 6))
    found = [t.session_id for batch in batches for t in batch]
    found += [t.session_id for t in await due(stores)]  # what was locked for one was passed over by another
    assert sorted(found) == sorted(f"s{i}" for i in range(60))


async def test_a_timer_that_is_done_is_forgotten_unless_it_was_armed_anew(stores: Stores) -> None:
    await talk(stores, "t_1", answer(timers=[PAST]))
    (first,) = await due(stores)
    await talk(stores, "t_2", answer(timers=[PAST]))
    await stores.timers.done(first)
    (second,) = await due(stores, hold=-1)
    assert second.seq == 2
    await stores.timers.done(second)
    await stores.timers.done(second)
    assert await due(stores) == []


async def test_rule_turns_arm_the_timer_of_their_agent_from_the_last_answer(stores: Stores) -> None:
    entries = [
        journal_entry("t_1", at=1000.0),
        journal_entry("t_2", "s2", at=1001.0, agent_id="bank"),
        journal_entry("t_3", at=1002.0),
        journal_entry("t_4", "s3", at=1003.0, agent_id="none"),
    ]
    timers = {"shop": ArmTimer("timer", "still_there", 300, 0), "bank": ArmTimer("timer", "bye", 60, 1)}
    assert await stores.turns.record_rule_turns(entries, timers) == 4
    assert await due(stores, hold=-1) == [
        TimerRow("acme", "s2", "bank", "timer", "bye", 1, 1, 1061.0),
        TimerRow("acme", "s1", "shop", "timer", "still_there", 0, 2, 1302.0),
    ]
    # what is stored already arms nothing again
    assert await stores.turns.record_rule_turns([*entries, journal_entry("t_5", at=1010.0)], timers) == 1
    assert [(t.session_id, t.seq, t.due_at) for t in await due(stores)] == [("s2", 1, 1061.0), ("s1", 3, 1310.0)]


async def test_movers_and_turns_that_arm_timers_at_once_do_not_block_each_other(stores: Stores, other_stores: Stores) -> None:
    timers = {"shop": PAST}
    entries = [journal_entry(f"t_{i}", f"s{i % 5}") for i in range(50)]
    moves = [s.turns.record_rule_turns(e, timers) for s in (stores, other_stores) for e in (entries, entries[::-1])]
    talks = [talk(stores, f"l_{i}", answer(timers=[PAST]), session_id=f"n{i}") for i in range(10)]
    results = await asyncio.gather(*moves, *talks, *(due(s, hold=-1) for s in (stores, other_stores) * 5))
    assert sum(n for n in results[:4] if isinstance(n, int)) == 50
    last = {t.session_id: t.seq for t in await due(stores)}
    assert last == {f"s{i}": 10 for i in range(5)} | {f"n{i}": 1 for i in range(10)}


async def test_looking_for_due_timers_reads_only_those(postgres_database: str) -> None:
    stores = await open_stores(postgres_database)
    await stores.turns.record_rule_turns([journal_entry(f"t_{i}", f"s{i}", at=9e9) for i in range(200)], {"shop": PAST})
    connection = await asyncpg.connect(postgres_database)
    try:
        await connection.execute("SET enable_seqscan = off")  # so small a table is read whole otherwise
        plan = await connection.fetch("EXPLAIN (ANALYZE, FORMAT TEXT) " + DUE.replace("$1", "30").replace("$2", "100"))
    finally:
        await connection.close()
        await stores.aclose()
    assert "Index Cond: (next_at <=" in "\n".join(line[0] for line in plan)
