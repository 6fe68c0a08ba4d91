"""Ticks become tasks, each once: with two processes, after an outage, when clocks jump; and what is too old is dropped and counted."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.jobs import schedules
from heavy.jobs.rows import NewSchedule, ScheduleRow
from heavy.jobs.schedules import Step, step, task_of
from heavy.jobs.stores import JobStores
from tests.support.job_node import JobNode, job_node
from tests.support.waiting import wait_until

MINUTE = 60.0


async def stored(here: JobNode, next_at: float, cron: str = "* * * * *", **other: object) -> ScheduleRow:
    request = {"message": "good morning", "user_id": None, "context": {}}
    values: dict[str, object] = {"tenant": "acme", "schedule_id": "sch_1", "timezone": "UTC", "session_id": "s1", "agent_id": "shop"}
    values |= {"request": request, "max_attempts": 3, **other}
    return await here.stores.schedules.create(NewSchedule(cron=cron, next_at=next_at, **values))  # type: ignore[arg-type]


async def made(here: JobNode) -> list[str]:
    return [t.task_id for t in await here.stores.tasks.page("acme", session_id="s1", limit=500)]


async def again(here: JobNode, next_at: float) -> None:
    """Sets the schedule to a tick."""
    await here.stores.schedules.enable("acme", "sch_1", enabled=True, next_at=next_at)


def counted(here: JobNode, outcome: str) -> float:
    return float(here.metrics.schedule_ticks_total.labels(outcome).value)


def this_minute() -> float:
    return time.time() // MINUTE * MINUTE


async def test_a_due_tick_becomes_a_task_and_the_next_one_is_due(here: JobNode) -> None:
    now = this_minute()
    await stored(here, now)
    assert await here.scheduler.tick_due() == 1
    assert await here.scheduler.tick_due() == 0
    row = await here.stores.schedules.get("acme", "sch_1")
    assert row is not None
    assert (row.last_at, row.next_at) == (now, now + MINUTE)
    (task_id,) = await made(here)
    task = await here.task(task_id)
    assert (task.schedule_id, task.lane, task.request["message"], task.status) == ("sch_1", "task", "good morning", "pending")
    assert counted(here, "fired") == 1


async def test_each_tick_belongs_to_one_of_two_processes(stores: JobStores, hotstore: MemoryHotStore, here: JobNode) -> None:
    async with job_node(stores, hotstore) as other:
        await stored(here, this_minute() - 5 * MINUTE)
        for _ in range(10):
            await asyncio.gather(here.scheduler.tick_due(), other.scheduler.tick_due())
        assert len(await made(here)) == 6
        assert counted(here, "fired") + counted(other, "fired") == 6


async def test_what_was_missed_for_less_than_an_hour_is_caught_up(here: JobNode) -> None:
    last = this_minute()
    await stored(here, last - 30 * MINUTE, "*/10 * * * *")
    while await here.scheduler.tick_due():
        pass
    row = await here.stores.schedules.get("acme", "sch_1")
    assert row is not None
    assert row.next_at > time.time()
    assert row.last_at is not None
    assert row.next_at - row.last_at == 600
    ids = await made(here)
    assert len(ids) in (3, 4)  # as many as there are tens of minutes in the last half hour
    assert ids == sorted(ids, reverse=True)


async def test_what_is_older_is_dropped_and_counted(here: JobNode) -> None:
    last = this_minute()
    await stored(here, last - 90 * MINUTE)
    while await here.scheduler.tick_due():
        pass
    assert len(await made(here)) in (60, 61)  # a minute may turn while the test runs
    assert counted(here, "missed") in (29, 30, 31)
    assert counted(here, "fired") == len(await made(here))


def test_a_week_of_minutes_is_passed_over_in_one_step() -> None:
    row = ScheduleRow("acme", "sch_1", "* * * * *", "UTC", "s1", "shop", {}, 3, None, True, 0.0, None, 0.0)
    week = step(row, 7 * 86400.0)
    assert (week.fires, week.missed) == (False, schedules.MOST_COUNTED)
    assert 7 * 86400 - 3600 <= week.next_at <= 7 * 86400 - 3540
    yearly = step(ScheduleRow("acme", "s", "0 0 1 1 *", "UTC", "s1", "shop", {}, 3, None, True, 0.0, None, 0.0), 40 * 86400.0)
    assert yearly == Step(365 * 86400.0, fires=False, missed=1)


async def test_a_clock_that_is_set_back_repeats_no_tick(here: JobNode) -> None:
    now = this_minute()
    await stored(here, now - 2 * MINUTE)
    while await here.scheduler.tick_due():
        pass
    before = await made(here)
    await again(here, now - 2 * MINUTE)  # as if the next ticks were to come once more
    while await here.scheduler.tick_due():
        pass
    assert set(await made(here)) >= set(before)
    assert len(await made(here)) <= len(before) + 1  # a minute may have turned


async def test_a_schedule_that_is_off_or_gone_makes_nothing(here: JobNode) -> None:
    await stored(here, this_minute())
    await here.stores.schedules.enable("acme", "sch_1", enabled=False)
    assert await here.scheduler.tick_due() == 0
    await again(here, this_minute())
    await here.stores.schedules.delete("acme", "sch_1")
    assert await here.scheduler.tick_due() == 0
    assert await made(here) == []


async def test_one_that_this_process_cannot_read_holds_up_no_other(here: JobNode) -> None:
    await stored(here, this_minute() - MINUTE, timezone="Moon/Base", schedule_id="sch_moon")
    await stored(here, this_minute())
    assert await here.scheduler.tick_due() == 1
    assert len(await made(here)) == 1


async def test_the_id_of_a_ticks_task_follows_from_schedule_and_tick(here: JobNode) -> None:
    row = await stored(here, 1_800_000_000.0)
    task_id = task_of(row).task_id
    assert task_id == task_of(row).task_id
    assert (task_id[:14], len(task_id)) == (f"t_{1_800_000_000_000:012x}", 34)
    other = await stored(here, 1_800_000_000.0, schedule_id="sch_2")
    assert task_of(other).task_id != task_id


async def test_it_looks_every_second(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "EVERY_SECONDS", 0.01)
    work = asyncio.create_task(here.scheduler.run())
    await stored(here, this_minute())

    async def ran() -> bool:
        return bool(await made(here))

    async with here.running():
        await wait_until(ran, "the tick has made a task")
        await here.until((await made(here))[-1], "success")
    work.cancel()
    await asyncio.wait([work])
