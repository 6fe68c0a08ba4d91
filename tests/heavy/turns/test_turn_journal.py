"""The way of rule-answered turns into the database: an entry that nobody can read does not stand in the way of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from common.contracts.journal import JournalEntry, encode
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.telemetry.metrics import Metrics
from heavy.jobs.journal import SMALL_BATCH, JournalMover
from heavy.turns.rows import ArmTimer
from heavy.turns.stores import DatabaseUnavailable, TurnStore
from tests.support.node import Node
from tests.support.turns import journal_entry
from tests.support.waiting import wait_until


async def test_an_unreadable_entry_is_dropped(here: Node, hotstore: MemoryHotStore) -> None:
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    await hotstore.record(*place, "t_0", b'{"of": "another version"}', b"r")
    await hotstore.record(*place, "t_1", encode(journal_entry("t_1")), b"r")
    assert await here.mover.move_batch() == 2
    assert await hotstore.journal_size() == 0
    assert (await here.row("t_1")).state == "done"


async def test_a_turn_comes_behind_what_the_rules_answered(here: Node, hotstore: MemoryHotStore) -> None:
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    await hotstore.record(*place, "t_1", encode(journal_entry("t_1")), b"r")
    await here.say("t_2")
    await here.events("t_2")
    assert (await here.row("t_2")).seq == 2
    history = [m.content for m in here.gateway.requests[0].messages if m.role != "system"]
    assert history == ["question of t_1", "answer of t_1", "hello there friend"]


async def test_an_answer_waits_for_no_mover_that_has_the_one_before_it(here: Node, hotstore: MemoryHotStore) -> None:
    """Another process has read the first two of a session from the journal, and dies; the third is moved here. Keyed turns have ids that
    do not follow the time."""
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    for turn_id in ("t_9", "t_0"):
        await hotstore.record(*place, turn_id, encode(journal_entry(turn_id)), b"r")
    assert len(await hotstore.journal_read("dead", 10)) == 2
    await hotstore.record(*place, "t_5", encode(journal_entry("t_5")), b"r")
    await hotstore.record(keys.gate("acme", "s2"), keys.pending("acme", "s2"), "t_7", encode(journal_entry("t_7", "s2")), b"r")
    assert await here.mover.move_batch() == 2
    assert [(await here.row(turn_id)).seq for turn_id in ("t_9", "t_0", "t_5", "t_7")] == [1, 2, 3, 1]


async def test_what_waits_for_a_turn_comes_in_its_order(here: Node, hotstore: MemoryHotStore) -> None:
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    for turn_id in ("t_9", "t_0"):
        await hotstore.record(*place, turn_id, encode(journal_entry(turn_id)), b"r")
    await here.say("t_3")
    await here.events("t_3")
    assert [(await here.row(turn_id)).seq for turn_id in ("t_9", "t_0", "t_3")] == [1, 2, 3]


async def test_small_batches_go_while_turns_are_under_way_and_large_ones_else(here: Node, hotstore: MemoryHotStore) -> None:
    batches: list[int] = []
    busy = 1
    mover = JournalMover(here.stores.turns, hotstore, Metrics(), "n1", moved=lambda e: batches.append(len(e)), busy=lambda: busy)
    for n in range(SMALL_BATCH * 3):
        await hotstore.record(keys.gate("acme", f"s{n % 7}"), keys.pending("acme", f"s{n % 7}"), f"t_{n}", encode(entry(n)), b"r")
    moving = asyncio.create_task(mover.drain())
    try:
        await wait_until(lambda: sum(batches) == SMALL_BATCH * 3, "all is moved")
        assert batches == [SMALL_BATCH] * 3
        busy = 0
        for n in range(SMALL_BATCH * 3, SMALL_BATCH * 6):
            await hotstore.record(keys.gate("acme", "s1"), keys.pending("acme", "s1"), f"t_{n}", encode(entry(n)), b"r")
        await wait_until(lambda: sum(batches) == SMALL_BATCH * 6, "all is moved")
        assert batches[-1] == SMALL_BATCH * 3
    finally:
        moving.cancel()
    assert (await here.row(f"t_{SMALL_BATCH * 6 - 1}")).state == "done"


def entry(n: int) -> JournalEntry:
    return journal_entry(f"t_{n}", f"s{n % 7}" if n < SMALL_BATCH * 3 else "s1")


async def test_sessions_that_must_be_up_to_date_at_the_same_time_go_in_one_batch(here: Node, hotstore: MemoryHotStore) -> None:
    """The first goes alone, the two that come meanwhile together. Their batch fails for the one that began it; the other tries again."""
    turns = HeldTurns(here.stores.turns, failing=2)
    mover = JournalMover(turns, hotstore, Metrics(), "n1")
    for n in (1, 2, 3):
        await hotstore.record(
            keys.gate("acme", f"s{n}"), keys.pending("acme", f"s{n}"), f"t_{n}", encode(journal_entry(f"t_{n}", f"s{n}")), b"r"
        )
    settling = [asyncio.create_task(mover.settle("acme", f"s{n}")) for n in (1, 2, 3)]
    await wait_until(lambda: turns.batches, "the first has begun")
    turns.open.set()
    results = await asyncio.gather(*settling, return_exceptions=True)
    assert turns.batches == [["t_1"], ["t_2", "t_3"], ["t_3"]]
    assert [type(result) for result in results] == [type(None), DatabaseUnavailable, type(None)]
    assert list(await hotstore.pending(keys.pending("acme", "s2"))) == ["t_2"]  # it is moved later
    assert await hotstore.journal_size() == 1
    assert [(await here.row(f"t_{n}")).seq for n in (1, 3)] == [1, 1]


async def test_who_has_given_up_leaves_nothing_that_a_later_batch_would_take(here: Node, hotstore: MemoryHotStore) -> None:
    """The database is away for the first; the second has gone before its turn came; a session that is erased meanwhile stays erased."""
    turns = HeldTurns(here.stores.turns, failing=1)
    mover = JournalMover(turns, hotstore, Metrics(), "n1")
    for n in (1, 2, 3):
        await hotstore.record(
            keys.gate("acme", f"s{n}"), keys.pending("acme", f"s{n}"), f"t_{n}", encode(journal_entry(f"t_{n}", f"s{n}")), b"r"
        )
    settling = [asyncio.create_task(mover.settle("acme", f"s{n}")) for n in (1, 2)]
    await wait_until(lambda: turns.batches, "the first has begun")
    settling[1].cancel()
    turns.open.set()
    results = await asyncio.gather(*settling, return_exceptions=True)
    assert [type(result) for result in results] == [DatabaseUnavailable, asyncio.CancelledError]
    await mover.settle("acme", "s3")
    assert turns.batches == [["t_1"], ["t_3"]]


class HeldTurns:
    """Stores turns of rules once it is opened; the batch with the number `failing` finds the database away."""

    def __init__(self, turns: TurnStore, failing: int) -> None:
        self._turns, self._failing = turns, failing
        self.open = asyncio.Event()
        self.batches: list[list[str]] = []

    async def record_rule_turns(self, entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer]) -> int:
        self.batches.append([e.turn_id for e in entries])
        await self.open.wait()
        if len(self.batches) == self._failing:
            raise DatabaseUnavailable("away", retry_after=1.0)
        return await self._turns.record_rule_turns(entries, timers)
