"""Schedules over HTTP: made, listed, switched off and on, forgotten; what cannot tick is refused by its field."""

from __future__ import annotations

import time
from typing import Any

import pytest

from heavy.jobs.rows import NewSchedule
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess
from tests.support.waiting import wait_until

PATH = "/api/v1/schedules"
DAILY = {"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "message": "good morning", "session_id": "s1"}


async def made(desk: InProcess, **more: Any) -> Any:
    status, schedule = await desk.call("POST", PATH, DAILY | more)
    assert status == 201, schedule
    checked("Schedule", schedule)
    return schedule


async def test_made_seen_and_forgotten(desk: InProcess) -> None:
    schedule = await made(desk, context={"name": "Ada"}, max_attempts=5)
    assert (schedule["enabled"], schedule["last_at"], schedule["context"], schedule["max_attempts"]) == (True, None, {"name": "Ada"}, 5)
    assert time.time() < schedule["next_at"] < time.time() + 4 * 86400
    assert (await desk.call("GET", f"{PATH}/{schedule['schedule_id']}")) == (200, schedule)
    assert (await desk.call("GET", PATH)) == (200, {"schedules": [schedule], "next_cursor": None})
    assert (await desk.call("DELETE", f"{PATH}/{schedule['schedule_id']}")) == (200, {"status": "deleted"})
    assert (await desk.call("DELETE", f"{PATH}/{schedule['schedule_id']}"))[0] == 404


async def test_its_query_may_stand_by_itself(desk: InProcess) -> None:
    schedule = await made(desk, query={"message": "the news please", "session_id": "s7"})
    assert (schedule["message"], schedule["session_id"]) == ("the news please", "s7")


async def test_its_tick_runs_as_a_task(desk: InProcess) -> None:
    schedule = await made(desk, cron="* * * * *")
    tick = time.time() // 60 * 60
    await desk.heavy.stores.schedules.enable("default", schedule["schedule_id"], enabled=True, next_at=tick)
    tasks: list[Any] = []

    async def ran() -> bool:
        tasks[:] = (await desk.call("GET", "/api/v1/tasks?session_id=s1"))[1]["tasks"]
        return any(t["status"] == "success" for t in tasks)

    await wait_until(ran, "the tick has run")
    assert (tasks[-1]["schedule_id"], tasks[-1]["result"]["message"]) == (schedule["schedule_id"], "you said good morning")
    _, seen = await desk.call("GET", f"{PATH}/{schedule['schedule_id']}")
    assert seen["last_at"] >= tick
    assert seen["next_at"] == seen["last_at"] + 60


async def test_switched_off_and_on(desk: InProcess) -> None:
    schedule = await made(desk)
    path = f"{PATH}/{schedule['schedule_id']}"
    status, off = await desk.call("PATCH", path, {"enabled": False})
    assert (status, off["enabled"], off["next_at"]) == (200, False, None)
    await desk.heavy.stores.schedules.enable("default", schedule["schedule_id"], enabled=False, next_at=1000.0)
    status, on = await desk.call("PATCH", path, {"enabled": True})
    assert (status, on["enabled"], on["next_at"]) == (200, True, schedule["next_at"])  # the first tick from now
    for wrong in ({}, {"enabled": "yes"}, {"enabled": None}):
        status, problem = await desk.call("PATCH", path, wrong)
        assert (status, problem["field"]) == (400, "enabled")


async def test_the_list_comes_in_pages(desk: InProcess) -> None:
    ids = [(await made(desk))["schedule_id"] for _ in range(3)]
    _, first = await desk.call("GET", f"{PATH}?limit=2")
    _, second = await desk.call("GET", f"{PATH}?limit=2&cursor={first['next_cursor']}")
    assert [s["schedule_id"] for s in (*first["schedules"], *second["schedules"])] == ids[::-1]
    assert second["next_cursor"] is None
    assert (await desk.call("GET", f"{PATH}?cursor=nonsense"))[1]["field"] == "cursor"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "every day"}, "cron"),
        ({"cron": 5}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"time_zone": "Europe/Berlin"}, "time_zone"),
        ({"tz": "Europe/Berlin"}, "tz"),
        ({"query": {"message": 5}}, "message"),
        ({"message": 5}, "message"),
        ({"agent_id": "nobody"}, "agent_id"),
        ({"delay_seconds": 5}, "delay_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
async def test_what_cannot_tick_is_refused(desk: InProcess, change: dict[str, Any], field: str) -> None:
    status, problem = await desk.call("POST", PATH, DAILY | change)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)
    assert (await desk.call("GET", PATH))[1]["schedules"] == []


async def test_foreign_schedules_look_like_unknown_ones(desk: InProcess) -> None:
    request = {"message": "x", "user_id": None, "context": {}}
    await desk.heavy.stores.schedules.create(NewSchedule("other", "sch_1", "0 9 * * *", "UTC", "s1", "shop", request, 3, 9e9))
    answers = set()
    for schedule_id in ("sch_1", "sch_2"):
        for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"enabled": False})):
            status, problem = await desk.call(method, f"{PATH}/{schedule_id}", body)
            answers.add((status, problem["code"], problem["detail"]))
    assert answers == {(404, "not_found", "there is no such schedule")}
    row = await desk.heavy.stores.schedules.get("other", "sch_1")
    assert row is not None
    assert row.enabled
