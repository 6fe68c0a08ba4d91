"""One suite for every database: tasks wait for their time, are picked in a fair order by one caller each, and end once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import asyncpg

from heavy.jobs.rows import STATUSES, LaneStats
from heavy.jobs.stores import JobStores
from heavy.storage.open import open_stores
from heavy.storage.postgres.task_statements import PICK
from tests.support.tasks import end, new_task, pick, picked, submit
from tests.support.turns import LEASE, accept, answer, fence_of, session_of, talk
from tests.support.waiting import wait_until


async def event_types(stores: JobStores, session_id: str = "s1") -> list[tuple[int, str]]:
    return [(e.id, e.type) for e in await stores.sessions.events("acme", session_id, after=0, limit=99)]


async def next_picked(stores: JobStores) -> list[str]:
    """What is picked as soon as something is due."""
    found: list[str] = []

    async def due() -> bool:
        found[:] = await picked(stores)
        return bool(found)

    await wait_until(due, "a task is due")
    return found


async def status(stores: JobStores, task_id: str) -> str | None:
    task = await stores.tasks.get("acme", task_id)
    return task.status if task else None


async def test_a_task_is_stored_once(stores: JobStores) -> None:
    task, new = await stores.tasks.submit(new_task("t_1", fingerprint="f1"))
    assert (new, task.status, task.attempts, task.fingerprint, task.turn) == (True, "pending", 0, "f1", None)
    assert task.run_at == task.created_at
    again, new = await stores.tasks.submit(new_task("t_1", fingerprint="f2", request={"message": "another"}))
    assert (again, new) == (task, False)
    assert await stores.tasks.get("acme", "t_1") == task
    assert await stores.tasks.get("other", "t_1") is None
    assert (await stores.tasks.submit(new_task("t_1", tenant="other")))[1]


async def test_due_tasks_are_picked_in_order_and_once(stores: JobStores) -> None:
    await submit(stores, "t_2", "t_3", "t_1")
    first = await pick(stores, 2)
    assert [t.task_id for t in first] == ["t_2", "t_3"]
    assert {(t.status, t.attempts, t.owner) for t in first} == {("running", 1, "a")}
    assert await picked(stores) == ["t_1"]
    assert await picked(stores) == []


async def test_a_task_waits_for_its_time(stores: JobStores) -> None:
    now = time.time()
    late, _ = await stores.tasks.submit(new_task("t_late", delay_seconds=3600))
    await submit(stores, "t_later", run_at=now + 7200)
    early, _ = await stores.tasks.submit(new_task("t_past", run_at=now - 7200))
    assert late.run_at == late.created_at + 3600
    assert early.run_at == early.created_at  # nobody goes before those that came earlier
    await submit(stores, "t_soon", delay_seconds=0.2)
    assert await picked(stores) == ["t_past"]
    assert await next_picked(stores) == ["t_soon"]


async def test_tenants_take_turns(stores: JobStores) -> None:
    await submit(stores, *(f"t_{n}" for n in range(5)))
    await submit(stores, "t_5", "t_6", tenant="beta")
    await submit(stores, "t_7", tenant="gamma")
    assert await picked(stores, 4) == ["t_0", "t_1", "t_5", "t_7"]
    # acme has two running, beta one, gamma one that ends: beta's second stands before acme's third
    await stores.tasks.end("gamma", [end("t_7")])
    await submit(stores, "t_8", tenant="gamma")
    assert await picked(stores, 2) == ["t_6", "t_8"]
    assert await picked(stores, 1) == ["t_2"]


async def test_lanes_do_not_see_each_other(stores: JobStores) -> None:
    await submit(stores, "t_1", lane="batch")
    await submit(stores, "t_2")
    assert await picked(stores) == ["t_2"]
    assert await picked(stores, lane="batch") == ["t_1"]


async def test_a_sessions_tasks_run_one_after_another(stores: JobStores, other_stores: JobStores) -> None:
    await submit(stores, "t_1", "t_2", "t_3", session_id="s1")
    await submit(stores, "t_4")
    assert await picked(stores) == ["t_1", "t_4"]
    assert await picked(other_stores, owner="b") == []
    await stores.tasks.end("acme", [end("t_1")])
    assert await picked(other_stores, owner="b") == ["t_2"]
    await stores.tasks.park("acme", "t_2")  # its turn awaits an approval: it holds nobody up
    assert await picked(stores) == ["t_3"]


async def test_a_busy_session_is_passed_over(stores: JobStores) -> None:
    turn = (await accept(stores, "t_turn")).turn
    await submit(stores, "t_1", session_id="s1")
    await submit(stores, "t_2")
    assert await picked(stores) == ["t_2"]
    await stores.turns.finish(fence_of(turn), answer())
    assert await picked(stores) == ["t_1"]


async def test_only_so_many_are_looked_at(stores: JobStores) -> None:
    await accept(stores, "t_turn")
    await submit(stores, "t_1", "t_2", "t_3", session_id="s1")
    await submit(stores, "t_4")
    assert await picked(stores, depth=3) == []
    assert await picked(stores, depth=4) == ["t_4"]


async def test_two_processes_pick_different_tasks(stores: JobStores, other_stores: JobStores) -> None:
    tasks = [new_task(f"t_{n:02d}", session_id=f"s{n % 20}", tenant=f"tenant{n % 3}") for n in range(60)]
    await asyncio.gather(*(stores.tasks.submit(t) for t in tasks))
    found: list[str] = []
    running: dict[tuple[str, str], str] = {}
    while len(found) < 60:
        rounds = await asyncio.gather(*(pick(s, 3, owner=o) for s, o in ((stores, "a"), (other_stores, "b")) * 3))
        for task in (t for one in rounds for t in one):
            place = (task.tenant, task.session_id)
            assert place not in running, "two tasks of one session run"
            running[place] = task.task_id
            found.append(task.task_id)
        for place, task_id in list(running.items()):
            await stores.tasks.end(place[0], [end(task_id)])
            del running[place]
    assert len(set(found)) == 60
    for number in range(20):  # each session's in the order of their ids, which is that of their coming
        mine = [t for t in found if int(t[2:]) % 20 == number]
        assert sorted(mine) == sorted(set(mine))


async def test_a_picked_task_is_given_back(stores: JobStores) -> None:
    await submit(stores, "t_1")
    (task,) = await pick(stores)
    assert await stores.tasks.release(task)
    assert not await stores.tasks.release(task)
    (again,) = await pick(stores, owner="b")
    assert (again.attempts, again.owner, again.started_at) == (1, "b", task.started_at)
    assert not await stores.tasks.release(task)  # it is another's now
    assert await status(stores, "t_1") == "running"


async def test_a_task_is_given_back_for_later(stores: JobStores) -> None:
    await submit(stores, "t_1", "t_2")
    first, second = await pick(stores)
    assert await stores.tasks.release(first, delay_seconds=3600)
    assert await stores.tasks.release(second, delay_seconds=0.1)
    assert await picked(stores) == []
    assert await next_picked(stores) == ["t_2"]
    again = await stores.tasks.get("acme", "t_2")
    assert again is not None
    assert again.attempts == 1


async def test_a_postponed_task_waits_and_counts_its_attempts(stores: JobStores) -> None:
    await submit(stores, "t_1")
    await pick(stores)
    assert await stores.tasks.postpone("acme", "t_1", time.time() + 3600)
    assert not await stores.tasks.postpone("acme", "t_1", time.time())
    assert await picked(stores) == []
    await submit(stores, "t_2")
    await pick(stores)
    await stores.tasks.postpone("acme", "t_2", time.time() - 1)
    (task,) = await pick(stores)
    assert (task.task_id, task.attempts) == ("t_2", 2)


async def test_a_task_ends_once(stores: JobStores, other_stores: JobStores) -> None:
    await talk(stores, "t_turn")
    await submit(stores, "t_1", session_id="s1")
    await pick(stores)
    ends = [s.tasks.end("acme", [end("t_1", how)]) for s in (stores, other_stores) * 3 for how in ("success", "failure")]
    ended = [rows[0] for rows in await asyncio.gather(*ends) if rows]
    assert len(ended) == 1
    task = await stores.tasks.get("acme", "t_1")
    assert task is not None
    assert (task.status, task.owner, task.finished_at) == (ended[0].status, None, ended[0].finished_at)
    assert await event_types(stores) == [(1, f"task.{task.status}")]
    assert (await session_of(stores)).event_seq == 1
    assert not await stores.tasks.postpone("acme", "t_1", 0)


async def test_an_end_without_a_session_has_no_event(stores: JobStores) -> None:
    await submit(stores, "t_1")
    assert [t.status for t in await stores.tasks.end("acme", [end("t_1", "cancelled")], only=["pending"])] == ["cancelled"]
    assert await event_types(stores, "s_t_1") == []
    assert await stores.tasks.end("other", [end("t_1")]) == []


async def test_only_what_may_end_is_ended(stores: JobStores) -> None:
    await submit(stores, "t_1", "t_2")
    await pick(stores, 1)
    both = [end("t_1", "cancelled"), end("t_2", "cancelled")]
    assert [t.task_id for t in await stores.tasks.end("acme", both, only=["pending"])] == ["t_2"]
    assert await status(stores, "t_1") == "running"


async def test_several_ends_of_one_session_have_events_in_order(stores: JobStores) -> None:
    await talk(stores, "t_turn")
    await submit(stores, "t_1", "t_2", "t_3", session_id="s1")
    await stores.tasks.end("acme", [end(f"t_{n}", "cancelled", error={"n": n}) for n in (3, 1, 2)])
    events = await stores.sessions.events("acme", "s1", after=0, limit=9)
    assert [e.id for e in events] == [1, 2, 3]
    assert {e.data["task_id"] for e in events} == {"t_1", "t_2", "t_3"}
    task = await stores.tasks.get("acme", "t_2")
    assert task is not None
    assert task.error == {"n": 2}


async def test_a_cancellation_is_noted_on_what_runs(stores: JobStores) -> None:
    await submit(stores, "t_1", "t_2")
    await pick(stores, 1)
    noted = [await stores.tasks.request_cancel("acme", t) for t in ("t_1", "t_2")]
    assert [t and (t.status, t.cancel_requested) for t in noted] == [("running", True), ("pending", False)]
    assert await stores.tasks.request_cancel("other", "t_1") is None
    assert await stores.tasks.unsettled(limit=9) == []  # it is about to become a turn
    running = await stores.tasks.get("acme", "t_1")
    assert running is not None
    assert not await stores.tasks.release(running)  # else it would run though nobody wants it any more
    assert not await stores.tasks.postpone("acme", "t_1", 0)
    await accept(stores, "t_1", session_id="s_t_1")
    assert [t.task_id for t in await stores.tasks.unsettled(limit=9)] == ["t_1"]


async def test_what_nobody_may_settle_is_found(stores: JobStores) -> None:
    names = {"t_fresh": LEASE, "t_left": -1.0, "t_ended": -1.0, "t_runs": -1.0, "t_failed": LEASE}
    for task_id in names:
        await submit(stores, task_id)
    for task_id, lease in names.items():
        (task,) = await pick(stores, 1, lease_seconds=lease)
        assert task.task_id == task_id
        if task_id not in ("t_fresh", "t_left"):
            accepted = await accept(stores, task_id, session_id=task.session_id)
            if task_id != "t_runs":
                await stores.turns.finish(fence_of(accepted.turn), answer())
    found = {t.task_id: t.turn and t.turn.state for t in await stores.tasks.unsettled(limit=9)}
    assert found == {"t_left": None, "t_ended": "done"}
    assert len(await stores.tasks.unsettled(limit=1)) == 1


async def test_a_task_is_seen_with_its_turn(stores: JobStores) -> None:
    await submit(stores, "t_1", session_id="s1")
    await talk(stores, "t_1")
    task = await stores.tasks.get("acme", "t_1")
    assert task is not None
    assert task.turn is not None
    assert (task.turn.state, task.turn.reply, task.turn.error) == ("done", {"message": "It is on its way."}, None)
    assert task.turn.finished_at is not None


async def test_tasks_are_listed_in_pages(stores: JobStores) -> None:
    await submit(stores, *(f"t_{n}" for n in range(5)))
    await submit(stores, "t_x", tenant="other")
    await submit(stores, "t_5", "t_6", session_id="s1")
    await stores.tasks.end("acme", [end("t_1"), end("t_2", "failure"), end("t_5", "failure")])
    first = await stores.tasks.page("acme", limit=3)
    assert [t.task_id for t in first] == ["t_6", "t_5", "t_4"]
    rest = await stores.tasks.page("acme", before=(first[-1].created_at, first[-1].task_id), limit=9)
    assert [t.task_id for t in rest] == ["t_3", "t_2", "t_1", "t_0"]
    assert [t.task_id for t in await stores.tasks.page("acme", status="failure", limit=9)] == ["t_5", "t_2"]
    assert [t.task_id for t in await stores.tasks.page("acme", status="success", limit=9)] == ["t_1"]
    assert [t.task_id for t in await stores.tasks.page("acme", session_id="s1", limit=9)] == ["t_6", "t_5"]
    last = (first[0].created_at, first[0].task_id)
    assert [t.task_id for t in await stores.tasks.page("acme", status="failure", session_id="s1", before=last, limit=9)] == ["t_5"]


async def test_the_list_goes_by_the_status_that_is_seen(stores: JobStores) -> None:
    """The rows of all of them still say that they run."""
    states = ("none", "waiting", "running", "done", "failed", "cancelled", "put_off")
    for name in states:
        await submit(stores, f"t_{name}", session_id=f"s_{name}")
    await pick(stores)
    for name in states[1:]:
        if name == "waiting":
            await accept(stores, "t_first", session_id="s_waiting")
        turn = (await accept(stores, f"t_{name}", session_id=f"s_{name}")).turn
        if name in ("done", "failed", "cancelled"):
            await stores.turns.finish(fence_of(turn), replace(answer(), state=name))  # type: ignore[arg-type]
        elif name == "put_off":
            usage = turn.usage
            await stores.turns.postpone(fence_of(turn), first_idx=1, messages=[], usage=usage, error={}, delay_seconds=60)
    seen = {s: {t.task_id[2:] for t in await stores.tasks.page("acme", status=s, limit=9)} for s in STATUSES}
    assert seen == {
        "pending": {"put_off"},
        "running": {"none", "waiting", "running"},
        "success": {"done"},
        "failure": {"failed"},
        "cancelled": {"cancelled"},
    }


async def test_figures_of_the_lanes(stores: JobStores) -> None:
    assert await stores.tasks.stats() == {"task": LaneStats(0, 0, 0), "batch": LaneStats(0, 0, 0)}
    await submit(stores, "t_1", "t_2", "t_3")
    await submit(stores, "t_4", tenant="beta", lane="batch")
    await submit(stores, "t_5", delay_seconds=3600)
    await pick(stores, 1)
    stats = await stores.tasks.stats()
    assert {lane: (s.waiting, s.running) for lane, s in stats.items()} == {"task": (2, 1), "batch": (1, 0)}
    assert 0 < stats["task"].oldest_seconds < 60


async def test_a_deleted_session_takes_its_tasks_with_it(stores: JobStores) -> None:
    await talk(stores, "t_turn")
    await submit(stores, "t_1", "t_2", session_id="s1")
    await submit(stores, "t_3", session_id="s1", tenant="other")
    await submit(stores, "t_4")
    assert await stores.sessions.delete("acme", "s1")
    assert [await status(stores, t) for t in ("t_1", "t_2", "t_4")] == [None, None, "pending"]
    assert await stores.tasks.get("other", "t_3") is not None
    assert await stores.sessions.delete("acme", "s_t_4")  # there is no session yet, but what is to become one
    assert await status(stores, "t_4") is None
    assert not await stores.sessions.delete("acme", "s_t_4")


async def test_picking_reads_the_beginning_of_the_line_only(postgres_database: str) -> None:
    """10 000 waiting tasks of five tenants: a few hundred rows are read."""
    stores = await open_stores(postgres_database)
    connection = await asyncpg.connect(postgres_database)
    try:
        await connection.execute("""
            INSERT INTO tasks (tenant, task_id, session_id, agent_id, lane, status, request, run_at, max_attempts, created_at)
            SELECT 'tenant' || n % 5, 't_' || n, 's' || n, 'shop', 'task', 'pending', '{}', 1000 + n, 3, 1000
            FROM generate_series(1, 10000) n
        """)
        plan = PICK.replace("$1", "'task'").replace("$2", "'a'").replace("$3", "30").replace("$4", "8").replace("$5", "64")
        texts = []
        for preparation in ("SELECT 1", "ANALYZE tasks"):  # as on the first day, and later
            await connection.execute(preparation)
            async with connection.transaction():
                rows = await connection.fetch("EXPLAIN (ANALYZE, FORMAT TEXT) " + plan)
            texts.append("\n".join(r[0] for r in rows))
    finally:
        await connection.close()
        await stores.aclose()
    for text in texts:
        assert "Index Scan using tasks_due" in text, text
        assert "Seq Scan on tasks" not in text, text
        assert "rows=10000 loops" not in text, text
