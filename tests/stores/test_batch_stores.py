"""One suite for every database: a batch is stored whole or not at all, counts down to its end, and gives its items in order."""

from __future__ import annotations

import asyncio

from heavy.jobs.rows import BatchRow, Hook, NewBatch, NewTask
from heavy.jobs.stores import JobStores
from tests.support.tasks import end, new_task, pick, picked
from tests.support.turns import accept, answer, fence_of, talk

PROBLEM = {"detail": "message is required"}


def items(count: int, broken: tuple[int, ...] = (), **other: object) -> list[NewTask]:
    values = {"lane": "batch", "batch_id": "b_1", **other}
    return [new_task(f"t_{n:05d}", position=n, error=PROBLEM if n in broken else None, **values) for n in range(count)]


async def store(stores: JobStores, count: int, broken: tuple[int, ...] = (), **other: object) -> BatchRow:
    batch, new = await stores.tasks.submit_batch(NewBatch("acme", "b_1", fingerprint="f"), items(count, broken, **other))
    assert new
    return batch


async def batch_of(stores: JobStores) -> BatchRow:
    found = await stores.tasks.batch("acme", "b_1")
    assert found is not None
    return found


async def test_a_batch_is_stored_with_its_broken_items(stores: JobStores) -> None:
    batch = await store(stores, 4, broken=(1, 3))
    assert (batch.total, batch.rejected, batch.open, batch.finished_at, batch.counts) == (4, 2, 2, None, None)
    assert (await batch_of(stores)).counts == {"pending": 2, "failure": 2}
    assert await stores.tasks.batch("other", "b_1") is None
    rows = await stores.tasks.items("acme", "b_1", after=-1, limit=9)
    assert [(r.position, r.status, r.error) for r in rows] == [
        (0, "pending", None), (1, "failure", PROBLEM), (2, "pending", None), (3, "failure", PROBLEM),
    ]  # fmt: skip
    assert rows[1].finished_at == rows[1].created_at
    assert await picked(stores, lane="batch") == ["t_00000", "t_00002"]


async def test_a_batch_of_broken_items_is_finished(stores: JobStores) -> None:
    batch = await store(stores, 2, broken=(0, 1))
    assert (batch.open, batch.finished_at) == (0, batch.created_at)


async def test_a_batch_is_stored_once(stores: JobStores, other_stores: JobStores) -> None:
    both = await asyncio.gather(*(s.tasks.submit_batch(NewBatch("acme", "b_1"), items(50)) for s in (stores, other_stores) * 3))
    assert sorted(new for _, new in both) == [False] * 5 + [True]
    again, new = await stores.tasks.submit_batch(NewBatch("acme", "b_1", fingerprint="other"), items(3, session_id="s2"))
    assert (again.total, again.fingerprint, new) == (50, "", False)
    assert (await batch_of(stores)).counts == {"pending": 50}


async def test_a_hook_is_kept_with_each_task(stores: JobStores) -> None:
    hook = Hook("wh_1", ("task.failed", "batch.completed"))
    await store(stores, 1, hook=hook)
    (task,) = await pick(stores, lane="batch")
    assert task.hook == hook


async def test_the_counter_reaches_its_end_once(stores: JobStores, other_stores: JobStores) -> None:
    await store(stores, 40)
    ends = [s.tasks.end("acme", [end(f"t_{n:05d}")]) for s in (stores, other_stores) for n in range(39)]
    await asyncio.gather(*ends)
    batch = await batch_of(stores)
    assert (batch.open, batch.finished_at) == (1, None)
    await asyncio.gather(*(s.tasks.end("acme", [end("t_00039", "failure")]) for s in (stores, other_stores) * 3))
    batch = await batch_of(stores)
    assert (batch.open, batch.counts) == (0, {"success": 39, "failure": 1})
    assert batch.finished_at is not None


async def test_what_has_not_begun_is_cancelled(stores: JobStores) -> None:
    await store(stores, 30)
    begun = await picked(stores, 3, lane="batch")
    ended = await stores.tasks.end("acme", [end(f"t_{n:05d}", "cancelled") for n in range(30)], only=["pending"])
    assert len(ended) == 27
    batch = await batch_of(stores)
    assert (batch.open, batch.counts) == (3, {"running": 3, "cancelled": 27})
    await stores.tasks.end("acme", [end(t) for t in begun])
    assert (await batch_of(stores)).finished_at is not None


async def test_items_come_in_pages_with_their_turns(stores: JobStores) -> None:
    await store(stores, 25)
    await talk(stores, "t_00011", session_id="s_t_00011")
    accepted = await accept(stores, "t_00012", session_id="s_t_00012")
    rows = await stores.tasks.items("acme", "b_1", after=9, limit=10)
    assert [r.position for r in rows] == list(range(10, 20))
    assert [r.turn.state if r.turn else None for r in rows[:3]] == [None, "done", "running"]
    assert rows[1].turn is not None
    assert rows[1].turn.reply == {"message": "It is on its way."}
    await stores.turns.finish(fence_of(accepted.turn), answer())
    assert await stores.tasks.items("acme", "b_1", after=24, limit=10) == []
    assert await stores.tasks.items("other", "b_1", after=-1, limit=10) == []


async def test_a_deleted_session_leaves_an_empty_place(stores: JobStores) -> None:
    await store(stores, 3, session_id="s1")
    (first,) = await pick(stores, 1, lane="batch")
    await talk(stores, first.task_id)
    await stores.tasks.end("acme", [end(first.task_id)])
    assert await stores.sessions.delete("acme", "s1")
    batch = await batch_of(stores)
    assert (batch.open, batch.counts) == (0, {"success": 1, "cancelled": 2})
    assert batch.finished_at is not None
    rows = await stores.tasks.items("acme", "b_1", after=-1, limit=9)
    assert [(r.request, r.turn) for r in rows] == [({}, None)] * 3


async def test_ten_thousand_items(stores: JobStores) -> None:
    batch = await store(stores, 10_000)
    assert (batch.total, batch.open) == (10_000, 10_000)
    assert await picked(stores, 2, lane="batch") == ["t_00000", "t_00001"]
    assert (await stores.tasks.items("acme", "b_1", after=9_998, limit=500))[0].task_id == "t_09999"
