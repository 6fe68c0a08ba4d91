"""One suite for every hot store: what common.hotstore.protocol promises, over memory and Redis."""

from __future__ import annotations

import asyncio

import pytest

from common.hotstore import keys
from common.hotstore.protocol import HotStore
from tests.support.waiting import wait_until

GATE, PENDING = keys.gate("t", "s1"), keys.pending("t", "s1")


async def test_values_are_set_read_replaced_and_deleted(store: HotStore) -> None:
    assert await store.get("k") is None
    await store.set("k", b"\x00\xff one", 60)
    assert await store.get("k") == b"\x00\xff one"
    await store.set("k", b"two", 60)
    await store.set("l", b"", 60)
    assert [await store.get("k"), await store.get("l")] == [b"two", b""]
    await store.delete("k", "l", "never there")
    await store.delete()
    assert [await store.get("k"), await store.get("l")] == [None, None]


async def test_a_value_is_gone_after_its_time_to_live(store: HotStore) -> None:
    await store.set("k", b"v", 0.05)
    assert await store.get("k") == b"v"

    async def gone() -> bool:
        return await store.get("k") is None

    await wait_until(gone, "the value expired", 2)


async def test_the_first_claim_holds(store: HotStore) -> None:
    results = await asyncio.gather(*(store.claim("c", str(i).encode(), 60) for i in range(9)))
    assert sorted(results, key=str) == [None, *([b"0"] * 8)]
    await store.delete("c")
    assert await store.claim("c", b"x", 0.05) is None

    async def free() -> bool:
        return await store.claim("c", b"y", 60) is None

    await wait_until(free, "the claim expired", 2)
    assert await store.get("c") == b"y"


async def test_many_callers_at_once_get_each_their_own_reply(store: HotStore) -> None:
    await asyncio.gather(*(store.set(f"k{i}", str(i).encode(), 60) for i in range(200)))
    assert await asyncio.gather(*(store.get(f"k{i}") for i in range(200))) == [str(i).encode() for i in range(200)]


async def test_a_cancelled_caller_does_not_shift_the_replies_of_others(store: HotStore) -> None:
    await asyncio.gather(*(store.set(f"k{i}", str(i).encode(), 60) for i in range(20)))
    tasks = [asyncio.ensure_future(store.get(f"k{i}")) for i in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [str(i).encode() for i in range(1, 20, 2)]
    assert await store.get("k7") == b"7"


async def test_record_writes_journal_pending_and_gate_in_one_step(store: HotStore) -> None:
    assert await store.record(GATE, PENDING, "t_1", b"entry 1", b"r", b"r:abcd") == (True, None)
    assert await store.record(GATE, PENDING, "t_2", b"entry 2", b"rc") == (True, b"r:abcd")
    assert await store.get(GATE) == b"r:abcd"
    assert [(t, i.entry) for t, i in (await store.pending(PENDING)).items()] == [("t_1", b"entry 1"), ("t_2", b"entry 2")]
    assert await store.journal_size() == 2


async def test_pending_comes_in_the_order_of_recording(store: HotStore) -> None:
    entries = {f"t_{n * 7 % 12}": b"entry with spaces %d" % n for n in range(12)}
    for turn_id, entry in entries.items():
        await store.record(GATE, PENDING, turn_id, entry, b"r")
    assert {turn_id: item.entry for turn_id, item in (await store.pending(PENDING)).items()} == entries
    assert list(await store.pending(PENDING)) == list(entries)
    assert await store.pending(keys.pending("t", "unknown")) == {}


async def test_the_journal_says_what_stands_behind_something_unmoved(store: HotStore) -> None:
    other = keys.pending("t", "s2")
    for turn_id, pending in (("t_1", PENDING), ("t_2", other), ("t_3", PENDING)):
        await store.record(GATE, pending, turn_id, turn_id.encode(), b"r")
    items = await store.journal_read("a", 10)
    assert [(i.entry, i.behind) for i in items] == [(b"t_1", False), (b"t_2", False), (b"t_3", True)]
    await store.journal_done([(items[0].id, PENDING, "t_1"), (items[2].id, PENDING, "t_3")])
    await store.record(GATE, PENDING, "t_4", b"t_4", b"r")
    assert [(i.entry, i.behind) for i in await store.journal_read("b", 10)] == [(b"t_4", False)]


@pytest.mark.parametrize("gate", [b"c:", b"t:abcd", b"x:"])
async def test_record_changes_nothing_when_the_gate_forbids_it(store: HotStore, gate: bytes) -> None:
    await store.set(GATE, gate, 60)
    assert await store.record(GATE, PENDING, "t_1", b"entry", b"r", b"r:new") == (False, gate)
    assert await store.get(GATE) == gate
    assert await store.pending(PENDING) == {}
    assert await store.journal_size() == 0


async def test_record_repeated_with_the_same_turn_id_records_once(store: HotStore) -> None:
    await store.record(GATE, PENDING, "t_1", b"entry", b"r", b"c:")
    recorded, _ = await store.record(GATE, PENDING, "t_1", b"entry", b"r", b"c:")
    assert recorded  # though the gate would forbid a new one
    assert await store.journal_size() == 1


async def test_each_journal_entry_goes_to_one_consumer_until_it_is_done(store: HotStore) -> None:
    for i in range(5):
        await store.record(GATE, PENDING, f"t_{i}", str(i).encode(), b"r")
    first = await store.journal_read("a", 3)
    second = await store.journal_read("b", 10)
    assert [i.entry for i in first] == [b"0", b"1", b"2"]
    assert [i.entry for i in second] == [b"3", b"4"]
    assert await store.journal_read("c", 10) == []
    await store.journal_done([(i.id, PENDING, f"t_{i.entry.decode()}") for i in [*first, *second]])
    assert await store.journal_size() == 0
    assert await store.pending(PENDING) == {}
    assert await store.journal_read("a", 10) == []


async def test_what_others_have_in_hand_of_a_session_is_told_up_to_a_place(store: HotStore) -> None:
    other = keys.gate("t", "s2"), keys.pending("t", "s2")
    await store.record(GATE, PENDING, "t_1", b"1", b"r")
    await store.record(*other, "t_2", b"2", b"r")
    await store.journal_read("a", 2)
    await store.record(GATE, PENDING, "t_3", b"3", b"r")
    mine = await store.journal_read("b", 1)
    await store.record(GATE, PENDING, "t_4", b"4", b"r")
    await store.journal_read("a", 1)  # has not done the first two: gets one of them again
    await store.journal_read("c", 1)
    held = await store.journal_held("b", mine[0].id, [PENDING])
    assert [i.entry for i in held if i.entry != b"2"] == [b"1"]
    assert held[0].place < mine[0].place
    assert [i.entry for i in await store.journal_held("c", mine[0].id, [PENDING]) if i.entry != b"2"] == [b"1", b"3"]
    await store.journal_done([(i.id, PENDING, f"t_{i.entry.decode()}") for i in await store.journal_read("a", 2)])
    assert await store.journal_held("b", mine[0].id, [PENDING]) == []


async def test_nobody_has_anything_in_hand_of_an_empty_journal(store: HotStore) -> None:
    assert await store.journal_read("a", 1) == []
    assert await store.journal_held("a", "0-1", [PENDING]) == []


async def test_a_consumer_that_did_not_finish_gets_its_entries_again(store: HotStore) -> None:
    await store.record(GATE, PENDING, "t_1", b"1", b"r")
    first = await store.journal_read("a", 10)
    await store.record(GATE, PENDING, "t_2", b"2", b"r")
    assert await store.journal_read("a", 10) == first
    await store.journal_done([(i.id, PENDING, "t_1") for i in first])
    assert [i.entry for i in await store.journal_read("a", 10)] == [b"2"]


async def test_who_is_in_a_hurry_gets_what_another_consumer_has_had_for_a_moment(store: HotStore) -> None:
    await store.record(GATE, PENDING, "t_1", b"1", b"r")
    await store.journal_read("a", 10)
    await asyncio.sleep(0.1)
    assert await store.journal_read("b", 10) == []
    assert [i.entry for i in await store.journal_read("b", 10, silent=0.05)] == [b"1"]


async def test_what_waits_for_a_session_can_be_done_before_anybody_has_read_it(store: HotStore) -> None:
    for n in range(3):
        await store.record(GATE, PENDING, f"t_{n}", str(n).encode(), b"r")
    taken = await store.journal_read("a", 1)
    waiting = await store.pending(PENDING)
    assert [item.id for item in waiting.values()][:1] == [item.id for item in taken]
    await store.journal_done([(item.id, PENDING, turn_id) for turn_id, item in waiting.items() if turn_id != "t_2"])
    await store.journal_done([])
    assert list(await store.pending(PENDING)) == ["t_2"]
    assert await store.journal_size() == 1
    assert [i.entry for i in await store.journal_read("a", 10)] == [b"2"]


async def test_a_log_takes_only_the_writer_that_knows_its_length(store: HotStore) -> None:
    key = keys.events("t_1")
    assert await store.log_length(key) == 0
    assert await store.log_append(key, 0, [b"a", b"b"], 60)
    assert await store.log_append(key, 2, [b"c"], 60)
    assert not await store.log_append(key, 1, [b"x"], 60)
    assert not await store.log_append(key, 5, [b"x"], 60)
    assert not await store.log_append(key, 2, [b"other"], 60)
    assert [await store.log_read(key, n) for n in (0, 2, 3, 9)] == [[b"a", b"b", b"c"], [b"c"], [], []]
    assert await store.log_length(key) == 3


async def test_an_append_repeated_after_a_lost_reply_succeeds_and_writes_once(store: HotStore) -> None:
    key = keys.events("t_1")
    assert await store.log_append(key, 0, [b"a", b"b"], 60)
    assert await store.log_append(key, 0, [b"a", b"b"], 60)
    assert await store.log_append(key, 2, [], 60)
    assert await store.log_length(key) == 2


async def test_subscribers_hear_what_is_published_from_then_on(store: HotStore) -> None:
    await store.publish("c", b"too early")
    async with store.subscribe("c") as one, store.subscribe("c") as two, store.subscribe("other") as other:
        for message in (b"1", b"2"):
            await store.publish("c", message)
        await store.publish("other", b"3")
        heard = [await anext(one), await anext(one), await anext(two), await anext(two), await anext(other)]
    assert heard == [b"1", b"2", b"1", b"2", b"3"]
    async with store.subscribe("c") as again:
        await store.publish("c", b"4")
        assert await anext(again) == b"4"


async def test_a_wait_for_a_message_may_be_cancelled_and_taken_up_again(store: HotStore) -> None:
    async with store.subscribe("c") as messages:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(messages), 0.01)
        await store.publish("c", b"later")
        assert await asyncio.wait_for(anext(messages), 2) == b"later"


async def test_ping_gives_seconds(store: HotStore) -> None:
    assert 0 <= await store.ping() < 0.3


async def test_closing_twice_is_harmless(store: HotStore) -> None:
    await store.aclose()
    await store.aclose()


async def test_a_versioned_value_is_read_once_for_each_version(store: HotStore) -> None:
    assert await store.read_version("v", None) is None
    assert await store.write_version("v", 1_790_000_000_005, b"\x00 one", 60)
    assert await store.read_version("v", None) == (1_790_000_000_005, b"\x00 one")
    assert await store.read_version("v", 4) == (1_790_000_000_005, b"\x00 one")
    assert await store.read_version("v", 1_790_000_000_005) == (1_790_000_000_005, None)


async def test_a_newer_version_is_not_undone_by_an_older_one(store: HotStore) -> None:
    assert await store.write_version("v", 10, b"ten", 60)
    assert not await store.write_version("v", 9, b"nine", 60)
    assert await store.read_version("v", None) == (10, b"ten")
    assert await store.write_version("v", 10, b"ten again", 60)
    assert await store.write_version("v", 100, b"hundred", 0.05)
    assert await store.read_version("v", 10) == (100, b"hundred")

    async def takes_an_older_one() -> bool:
        return await store.write_version("v", 9, b"nine", 60)

    await wait_until(takes_an_older_one, "the newer one has expired", 2)


async def test_the_size_grows_with_what_is_kept(store: HotStore) -> None:
    before = await store.size()
    for n in range(50):
        await store.set(f"size/{n}", b"x" * 10_000, 60)
    after = await store.size()
    assert after.keys == before.keys + 50
    assert after.bytes - before.bytes > 400_000
