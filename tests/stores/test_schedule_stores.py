"""One suite for every database: a schedule's tick is taken once, together with its task, whoever looks."""

from __future__ import annotations

import asyncio
import time

from heavy.jobs.rows import NewSchedule, NewTask, ScheduleRow
from heavy.jobs.stores import JobStores
from tests.support.tasks import new_task, picked


def schedule(schedule_id: str = "sch_1", next_at: float = 1000.0, **other: object) -> NewSchedule:
    values: dict[str, object] = {"tenant": "acme", "cron": "0 9 * * *", "timezone": "Europe/Paris", "session_id": "s1", "agent_id": "shop"}
    values |= {"request": {"message": "good morning"}, "max_attempts": 3, **other}
    return NewSchedule(schedule_id=schedule_id, next_at=next_at, **values)  # type: ignore[arg-type]


def tick(row: ScheduleRow) -> NewTask:
    return new_task(f"t_{row.schedule_id}_{row.next_at:.0f}", tenant=row.tenant, schedule_id=row.schedule_id)


async def found(stores: JobStores, schedule_id: str = "sch_1") -> ScheduleRow:
    row = await stores.schedules.get("acme", schedule_id)
    assert row is not None
    return row


async def test_a_schedule_is_stored_and_seen_by_its_tenant(stores: JobStores) -> None:
    row = await stores.schedules.create(schedule())
    assert (row.enabled, row.next_at, row.last_at, row.hook) == (True, 1000.0, None, None)
    assert await found(stores) == row
    assert await stores.schedules.get("other", "sch_1") is None
    assert not await stores.schedules.delete("other", "sch_1")
    assert await stores.schedules.delete("acme", "sch_1")
    assert not await stores.schedules.delete("acme", "sch_1")
    assert await stores.schedules.get("acme", "sch_1") is None


async def test_due_ones_come_longest_overdue_first(stores: JobStores) -> None:
    now = time.time()
    for name, next_at in (("late", now - 5), ("later", now - 50), ("coming", now + 3600), ("off", now - 99)):
        await stores.schedules.create(schedule(name, next_at))
    await stores.schedules.enable("acme", "off", enabled=False)
    clock, due = await stores.schedules.due(limit=9)
    assert [s.schedule_id for s in due] == ["later", "late"]
    assert abs(clock - time.time()) < 5
    assert [s.schedule_id for s in (await stores.schedules.due(limit=1))[1]] == ["later"]


async def test_a_tick_is_taken_by_one_of_many(stores: JobStores, other_stores: JobStores) -> None:
    row = await stores.schedules.create(schedule())
    takes = await asyncio.gather(*(s.schedules.advance(row, 2000.0, tick(row)) for s in (stores, other_stores) * 5))
    assert sorted(takes) == [False] * 9 + [True]
    after = await found(stores)
    assert (after.next_at, after.last_at) == (2000.0, 1000.0)
    assert await picked(stores) == ["t_sch_1_1000"]
    task = await stores.tasks.get("acme", "t_sch_1_1000")
    assert task is not None
    assert task.schedule_id == "sch_1"


async def test_a_dropped_tick_makes_no_task(stores: JobStores) -> None:
    row = await stores.schedules.create(schedule())
    assert await stores.schedules.advance(row, 5000.0, None)
    after = await found(stores)
    assert (after.next_at, after.last_at) == (5000.0, None)
    assert await picked(stores) == []


async def test_a_tick_that_ran_is_not_repeated_by_a_schedule_set_back(stores: JobStores) -> None:
    row = await stores.schedules.create(schedule())
    await stores.schedules.advance(row, 2000.0, tick(row))
    assert await picked(stores) == ["t_sch_1_1000"]
    back = await stores.schedules.enable("acme", "sch_1", enabled=True, next_at=1000.0)
    assert back is not None
    assert await stores.schedules.advance(back, 2000.0, tick(back))
    assert await picked(stores) == []


async def test_one_that_is_off_does_not_tick(stores: JobStores) -> None:
    row = await stores.schedules.create(schedule())
    off = await stores.schedules.enable("acme", "sch_1", enabled=False)
    assert off is not None
    assert (off.enabled, off.next_at) == (False, 1000.0)
    assert not await stores.schedules.advance(row, 2000.0, tick(row))
    assert await stores.schedules.enable("other", "sch_1", enabled=True) is None
    on = await stores.schedules.enable("acme", "sch_1", enabled=True, next_at=3000.0)
    assert on is not None
    assert (on.enabled, on.next_at) == (True, 3000.0)


async def test_they_are_listed_in_pages(stores: JobStores) -> None:
    for number in range(4):
        await stores.schedules.create(schedule(f"sch_{number}"))
    await stores.schedules.create(schedule("sch_x", tenant="other"))
    first = await stores.schedules.page("acme", limit=3)
    assert [s.schedule_id for s in first] == ["sch_3", "sch_2", "sch_1"]
    rest = await stores.schedules.page("acme", before=(first[-1].created_at, first[-1].schedule_id), limit=3)
    assert [s.schedule_id for s in rest] == ["sch_0"]
