"""One suite for every database: a purge belongs to one owner at a time and goes on where it was; what is too old goes, the rest stays."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.jobs import upkeep
from heavy.jobs.rows import Hook, NewBatch
from heavy.jobs.stores import JobStores
from heavy.jobs.upkeep import Progress, Purge, Retention
from heavy.storage.sqlite.connection import SqliteStores
from heavy.turns.webhooks import Verdict
from tests.support.tasks import end, new_task, picked, submit
from tests.support.turns import accept, answer, fence_of, session_of, talk
from tests.support.webhooks import PATIENCE, add, all_of, close, due, receiver

LONG = 3600.0
LATER = 1e10  # everything is older


async def begin(stores: JobStores, owner: str, *, every: float = LONG, lease: float = LONG) -> Progress | None:
    return await stores.upkeep.begin(owner, every_seconds=every, lease_seconds=lease)


async def save(stores: JobStores, owner: str, progress: Progress, *, lease: float = LONG, finished: bool = False) -> bool:
    return await stores.upkeep.save(owner, progress, lease_seconds=lease, finished=finished)


async def now() -> float:
    """A moment between what was stored before and what is stored after."""
    await asyncio.sleep(0.05)
    moment = time.time()
    await asyncio.sleep(0.05)
    return moment


async def sessions_of(stores: JobStores) -> list[str]:
    page = await stores.upkeep.page(("", ""), before=LATER, limit=1000)
    return [session_id for _, session_id in (*page.idle, *page.old)]


async def test_one_of_many_begins(stores: JobStores, other_stores: JobStores) -> None:
    both = (stores, other_stores)
    begun = await asyncio.gather(*(begin(both[n % 2], f"o{n}") for n in range(10)))
    assert [p for p in begun if p is not None] == [Progress()]
    assert await begin(stores, "late") is None
    last = await stores.upkeep.last()
    assert last is not None
    assert (last.progress, last.finished_at) == (Progress(), None)
    assert last.started_at == pytest.approx(time.time(), abs=5)


async def test_another_goes_on_where_one_has_died(stores: JobStores) -> None:
    assert await begin(stores, "a") == Progress()
    came = Progress(("acme", "s7"), False, 200, 3, 2, 1)
    assert await save(stores, "a", came, lease=0.01)
    await asyncio.sleep(0.05)
    assert await begin(stores, "b") == came
    assert not await save(stores, "a", Progress())
    assert await save(stores, "b", came, finished=True)
    last = await stores.upkeep.last()
    assert last is not None
    assert last.progress == came
    assert last.finished_at is not None


async def test_the_next_is_due_after_a_while(stores: JobStores) -> None:
    assert await stores.upkeep.last() is None
    assert await begin(stores, "a") is not None
    done = Progress(walked=True, sessions=5)
    assert await save(stores, "a", done, finished=True)
    assert await save(stores, "a", done, finished=True), "a reply that was lost is asked for again"
    assert not await save(stores, "a", done)
    assert await begin(stores, "a") is None
    assert await begin(stores, "b", every=0) == Progress()


async def test_a_walk_sees_every_session_once(stores: JobStores) -> None:
    for n in range(7):
        await talk(stores, f"t_{n}", session_id=f"s{n}", tenant="acme" if n < 4 else "other")
    await accept(stores, "t_8", session_id="s2")
    after, seen, pages = ("", ""), [], 0
    while True:
        page = await stores.upkeep.page(after, before=LATER, limit=3)
        seen += [*((*place, "idle") for place in page.idle), *((*place, "old") for place in page.old)]
        pages += 1
        if page.last is None:
            break
        after = page.last
    assert pages == 3
    assert sorted(seen) == [
        *(("acme", f"s{n}", "old" if n == 2 else "idle") for n in range(4)),
        *(("other", f"s{n}", "idle") for n in range(4, 7)),
    ]
    page = await stores.upkeep.page(("", ""), before=time.time() - LONG, limit=100)
    assert (page.looked, page.last, page.idle, page.old) == (7, None, (), ())


async def test_a_session_with_news_is_not_erased(stores: JobStores) -> None:
    await talk(stores, "t_1")
    moment = await now()
    await talk(stores, "t_2", session_id="s2")
    await talk(stores, "t_3", session_id="s3")
    await accept(stores, "t_4", session_id="s3")
    assert not await stores.sessions.delete("acme", "s2", idle_since=moment)
    assert not await stores.sessions.delete("acme", "s3", idle_since=LATER), "a turn of it is active"
    assert await stores.sessions.delete("acme", "s1", idle_since=moment)
    assert not await stores.sessions.delete("acme", "s1", idle_since=moment)
    assert await sessions_of(stores) == ["s2", "s3"]


async def test_old_turns_go_with_all_that_is_theirs(stores: JobStores) -> None:
    for n in (1, 2):
        await talk(stores, f"t_old{n}")
    moment = await now()
    await close(stores)
    running = (await accept(stores, "t_new")).turn
    assert await stores.upkeep.erase_turns(("acme", "s1"), before=moment) == 2
    assert await stores.upkeep.erase_turns(("acme", "s1"), before=moment) == 0
    assert [await stores.turns.get("acme", f"t_old{n}") for n in (1, 2)] == [None, None]
    left = await stores.sessions.messages("acme", "s1", limit=100, before_seq=None)
    assert [(m.turn_seq, m.message.role) for m in left] == [(3, "user"), (3, "assistant"), (4, "user")]
    assert (await session_of(stores)).message_count == 3
    await stores.turns.finish(fence_of(running), answer())
    assert await stores.upkeep.erase_turns(("acme", "s1"), before=LATER) == 1, "the last turn stays"
    assert (await session_of(stores)).message_count == 2
    assert await stores.upkeep.erase_turns(("other", "s1"), before=LATER) == 0


async def erase(stores: JobStores, before: float = LATER) -> int:
    erased = 0
    while n := await stores.upkeep.erase_records(before=before, limit=2):
        assert n <= 8, "at most two of each kind"
        erased += n
    return erased


async def tasks_of(stores: JobStores) -> list[str]:
    return sorted(t.task_id for t in await stores.tasks.page("acme", limit=100))


async def test_tasks_go_when_they_have_ended(stores: JobStores) -> None:
    await submit(stores, "t_1", "t_2", "t_3")
    await stores.tasks.end("acme", [end("t_1")])
    moment = await now()
    await stores.tasks.end("acme", [end("t_2", "failure")])
    assert await erase(stores, moment) == 1
    assert await tasks_of(stores) == ["t_2", "t_3"]
    assert await erase(stores) == 1
    assert await tasks_of(stores) == ["t_3"]
    assert await picked(stores) == ["t_3"]


async def test_a_batch_goes_as_a_whole(stores: JobStores) -> None:
    await stores.tasks.submit_batch(
        NewBatch("acme", "b_1", fingerprint="f"), [new_task(f"t_{n}", lane="batch", batch_id="b_1", position=n) for n in range(5)]
    )
    await stores.tasks.end("acme", [end(f"t_{n}") for n in range(4)])
    assert await erase(stores) == 0, "an item is still open"
    await stores.tasks.end("acme", [end("t_4")])
    assert await erase(stores) == 6
    assert await stores.tasks.batch("acme", "b_1") is None


async def test_webhooks_of_requests_go_when_nothing_is_left_to_tell(stores: JobStores) -> None:
    await add(stores)
    own = await stores.webhooks.ensure("acme", receiver("mine"))
    await submit(stores, "t_1", hook=Hook(own, ("task.completed",)))
    await close(stores)
    assert await erase(stores) == 0
    await stores.tasks.end("acme", [end("t_1", kind="task.completed")])
    kinds = {d.type for d in await all_of(stores)}
    assert kinds == {"session.closed", "task.completed"}
    assert await erase(stores) == 1, "the task; what waits to be told stays"
    assert {d.type for d in await all_of(stores)} == kinds
    for message in await due(stores):
        await stores.deliveries.settle(message.row, Verdict(True, status=204), patience_seconds=PATIENCE)
    assert await erase(stores) == 3, "two messages, and the request's webhook"
    assert await all_of(stores) == []
    assert len(await stores.webhooks.of_tenant("acme", limit=10)) == 1


async def test_the_sizes_are_known(stores: JobStores) -> None:
    await talk(stores, "t_1")
    sizes = await stores.upkeep.sizes()
    if isinstance(stores, SqliteStores):
        assert set(sizes.bytes) == {"all"}
        assert sizes.bytes["all"] > 4096
    else:
        assert set(sizes.rows) == set(sizes.bytes) > {"sessions", "turns", "messages", "tasks", "deliveries", "purges"}
        assert sizes.bytes["turns"] >= 8192


class Interrupted(Exception):
    """The process dies."""


@pytest.mark.parametrize("page", [1, 2, 4])
async def test_a_purge_that_dies_is_finished_by_another(
    stores: JobStores, other_stores: JobStores, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every page the process dies; the next one goes on there. Nothing is counted twice, nothing that is young is erased."""
    monkeypatch.setattr(upkeep, "PAGE", page)
    monkeypatch.setattr(upkeep, "LEASE_SECONDS", 0.02)
    for n in range(9):
        await talk(stores, f"t_{n}", session_id=f"s{n}")
    await submit(stores, "t_a", "t_b")
    await stores.tasks.end("acme", [end("t_a")])
    moment = await now()
    for n in (3, 5):
        await talk(stores, f"t_1{n}", session_id=f"s{n}")
    told = 0

    def dies(progress: Progress) -> None:
        nonlocal told
        told += 1
        if told % 2 == 0:  # it is told once where it begins, then after every page
            raise Interrupted

    deaths = 0
    while (last := await stores.upkeep.last()) is None or last.finished_at is None:
        store = (stores, other_stores)[deaths % 2]
        days = (time.time() - moment) / upkeep.DAY
        with pytest.raises(Interrupted):
            await Purge(store.upkeep, store.sessions, MemoryHotStore(), Retention(days, days), dies).once(f"o{deaths}", every_seconds=LONG)
        deaths += 1
        await asyncio.sleep(0.05)
    done = last.progress
    assert deaths >= 9 // page
    assert (done.looked, done.sessions, done.turns, done.records) == (9, 7, 2, 1)
    assert await sessions_of(stores) == ["s3", "s5"]
    assert await tasks_of(stores) == ["t_b"]


async def test_nothing_is_asked_of_the_database_when_all_is_kept(stores: JobStores) -> None:
    assert await Purge(stores.upkeep, stores.sessions, MemoryHotStore(), Retention(None, None)).once("a", every_seconds=LONG) is None
    assert await stores.upkeep.last() is None
    await talk(stores, "t_1")
    done = await Purge(stores.upkeep, stores.sessions, MemoryHotStore(), Retention(None, 1)).once("a", every_seconds=LONG)
    assert done == Progress()
    assert await sessions_of(stores) == ["s1"]
