"""Tasks over HTTP: submitted, seen, listed, cancelled in each state, tried again; keys that repeat; bad input named; foreign as unknown."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess
from tests.support.job_node import FailingGateway
from tests.support.tasks import new_task
from tests.support.waiting import wait_until

ASYNC = "/api/v1/query/async"
Reply = tuple[int, Any]


async def submit(desk: InProcess, message: str = "hello", session: str = "s1", key: str | None = None, **more: Any) -> Reply:
    headers = {"headers": {"Idempotency-Key": key}} if key else {}
    return await desk.call("POST", ASYNC, {"message": message, "session_id": session, **more}, **headers)


async def task(desk: InProcess, task_id: str) -> Any:
    return (await desk.call("GET", f"/api/v1/task/{task_id}"))[1]


async def until(desk: InProcess, task_id: str, status: str) -> Any:
    async def so() -> bool:
        return bool((await task(desk, task_id))["status"] == status)

    await wait_until(so, f"{task_id} is {status}")
    return await task(desk, task_id)


async def cancel(desk: InProcess, task_id: str) -> Reply:
    return await desk.call("DELETE", f"/api/v1/task/{task_id}")


async def test_submitted_polled_and_done(desk: InProcess) -> None:
    status, reply = await submit(desk, user_id="u1", context={"name": "Ada"})
    assert (status, set(reply), reply["status"], reply["session_id"]) == (202, {"task_id", "status", "session_id"}, "pending", "s1")
    done = await until(desk, reply["task_id"], "success")
    checked("Task", done)
    assert (done["result"]["message"], done["error"], done["attempts"], done["turn_state"]) == ("you said hello", None, 1, "done")
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    _, turn = await desk.call("GET", f"/api/v1/turns/{reply['task_id']}")
    assert turn["result"] == done["result"]
    async with desk.events() as events:
        number, kind, data = await events.next()
    assert (number, kind) == (1, "task.completed")
    assert data == {"session_id": "s1", "task_id": reply["task_id"], "status": "success", "result": done["result"]}
    checked("SessionEvent", {"type": kind, "data": data})


async def test_a_delayed_task_waits(desk: InProcess) -> None:
    _, late = await submit(desk, delay_seconds=60)
    _, soon = await submit(desk, session="s2", delay_seconds=0.3)
    _, at = await submit(desk, session="s3", run_at=time.time() + 0.3)
    await until(desk, soon["task_id"], "success")
    await until(desk, at["task_id"], "success")
    waiting = await task(desk, late["task_id"])
    assert (waiting["status"], waiting["turn_state"], waiting["run_at"] - waiting["created_at"]) == ("pending", None, 60)


async def test_cancelled_in_each_state(desk: InProcess, gateway: FailingGateway) -> None:
    _, waits = await submit(desk, delay_seconds=60)
    status, document = await cancel(desk, waits["task_id"])
    assert (status, document["status"], document["turn_state"]) == (200, "cancelled", None)
    assert (await cancel(desk, waits["task_id"]))[0] == 200  # once more changes nothing

    gateway.open.clear()
    _, runs = await submit(desk)
    await wait_until(lambda: desk.heavy.owner.get(runs["task_id"]) is not None, "the task runs")
    status, document = await cancel(desk, runs["task_id"])
    assert (status, document["task_id"]) in ((202, runs["task_id"]), (200, runs["task_id"]))
    ended = await until(desk, runs["task_id"], "cancelled")
    assert (ended["result"], ended["turn_state"]) == (None, "cancelled")

    gateway.open.set()
    _, done = await submit(desk)
    await until(desk, done["task_id"], "success")
    status, problem = await cancel(desk, done["task_id"])
    assert (status, problem["code"], problem["task_status"]) == (409, "invalid_request", "success")


async def test_a_failed_task_is_seen_and_tried_again_once(desk: InProcess, gateway: FailingGateway) -> None:
    _, first = await submit(desk, "please fail", max_attempts=2)
    failed = await until(desk, first["task_id"], "failure")
    checked("Task", failed)
    assert (failed["attempts"], failed["error"]["code"], failed["result"]) == (2, "llm_error", None)
    _, listed = await desk.call("GET", "/api/v1/tasks?status=failure")
    assert [t["task_id"] for t in listed["tasks"]] == [first["task_id"]]
    gateway.failing = False
    again = [await desk.call("POST", f"/api/v1/task/{first['task_id']}/retry") for _ in range(2)]
    assert [status for status, _ in again] == [202, 202]
    assert again[0][1] == again[1][1]
    assert again[0][1]["retry_of"] == first["task_id"]
    done = await until(desk, again[0][1]["task_id"], "success")
    assert (done["retry_of"], done["result"]["message"]) == (first["task_id"], "you said please fail")
    status, problem = await desk.call("POST", f"/api/v1/task/{done['task_id']}/retry")
    assert (status, problem["task_status"]) == (409, "success")


async def test_the_list_comes_in_pages(desk: InProcess) -> None:
    ids = [(await submit(desk, session=f"s{n % 2}", delay_seconds=60))[1]["task_id"] for n in range(5)]
    _, first = await desk.call("GET", "/api/v1/tasks?limit=2")
    assert [t["task_id"] for t in first["tasks"]] == ids[:2:-1]
    _, second = await desk.call("GET", f"/api/v1/tasks?limit=2&cursor={first['next_cursor']}")
    _, third = await desk.call("GET", f"/api/v1/tasks?limit=2&cursor={second['next_cursor']}")
    assert [t["task_id"] for t in (*second["tasks"], *third["tasks"])] == ids[2::-1]
    assert third["next_cursor"] is None
    _, of_session = await desk.call("GET", "/api/v1/tasks?session_id=s1&status=pending")
    assert [t["task_id"] for t in of_session["tasks"]] == [ids[3], ids[1]]
    _, none = await desk.call("GET", "/api/v1/tasks?session_id=s1&status=success")
    assert none == {"tasks": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=lost", "status"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("session_id=a%20b", "session_id"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=MSB0XzEgJw", "cursor"),
        ("cursor=bmFuIHRfMQ", "cursor"),
        ("cursor=MWU5OTkgdF8x", "cursor"),
        ("cursor=%00%ff", "cursor"),
    ],
)
async def test_a_list_that_cannot_be_is_refused(desk: InProcess, query: str, field: str) -> None:
    status, problem = await desk.call("GET", f"/api/v1/tasks?{query}")
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"message": ""}, "message"),
        ({"session_id": "a b"}, "session_id"),
        ({"agent_id": "nobody"}, "agent_id"),
        ({"run_at": "soon"}, "run_at"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"max_attempts": 99}, "max_attempts"),
    ],
)
async def test_what_cannot_be_a_task_is_refused(desk: InProcess, change: dict[str, Any], field: str) -> None:
    status, problem = await desk.call("POST", ASYNC, {"message": "hello", "session_id": "s1", **change})
    assert (status, problem["field"]) == (400, field)


async def test_a_key_gives_the_first_reply_again(desk: InProcess) -> None:
    _, first = await submit(desk, key="k1", delay_seconds=60)
    async with desk.http.post(
        desk.url + ASYNC, json={"message": "hello", "session_id": "s1", "delay_seconds": 60}, headers={"Idempotency-Key": "k1"}
    ) as reply:
        assert (reply.status, reply.headers["Idempotent-Replayed"]) == (202, "true")
        assert await reply.json() == first
    status, problem = await submit(desk, "another", key="k1", delay_seconds=60)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    status, problem = await submit(desk, key="k1", delay_seconds=61)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    assert (await submit(desk, key="k2", delay_seconds=60))[1]["task_id"] != first["task_id"]
    status, problem = await submit(desk, key="clé", delay_seconds=60)
    assert (status, problem["field"]) == (400, "Idempotency-Key")


async def test_a_key_of_a_query_is_no_key_of_a_task(desk: InProcess) -> None:
    headers = {"headers": {"Idempotency-Key": "k1"}}
    status, _ = await desk.call("POST", "/api/v1/query", {"message": "hello", "session_id": "s1"}, **headers)
    assert status == 200
    status, problem = await submit(desk, key="k1")
    assert (status, problem["code"]) == (422, "idempotency_mismatch")


async def test_foreign_tasks_look_like_unknown_ones(desk: InProcess) -> None:
    await desk.heavy.stores.tasks.submit(new_task("t_foreign", tenant="other"))
    answers = set()
    for task_id in ("t_foreign", "t_unknown"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
            status, problem = await desk.call(method, f"/api/v1/task/{task_id}{path}")
            answers.add((status, problem["code"], problem["detail"]))
    assert answers == {(404, "not_found", "there is no such task")}
    status, problem = await desk.call("GET", "/api/v1/task/a%20b")
    assert (status, problem["field"]) == (400, "task_id")


async def test_a_deleted_session_has_no_tasks(desk: InProcess) -> None:
    _, late = await submit(desk, delay_seconds=60)
    assert (await desk.call("DELETE", "/api/v1/session/s1"))[0] == 200
    assert (await desk.call("GET", f"/api/v1/task/{late['task_id']}"))[0] == 404


async def test_metrics_tell_of_tasks(desk: InProcess) -> None:
    _, reply = await submit(desk)
    await until(desk, reply["task_id"], "success")
    async with desk.http.get(desk.url + "/metrics") as page:
        text = await page.text()
    assert 'loadsplit_tasks_total{lane="task",outcome="success"} 1.0' in text
    assert 'loadsplit_task_wait_seconds_count{lane="task"} 1.0' in text


@pytest.mark.parametrize(
    ("webhook", "field"),
    [
        ("https://example.com", "webhook"),
        ({}, "webhook.url"),
        ({"url": "ftp://example.com"}, "webhook.url"),
        ({"url": "http://127.0.0.1:9/hook"}, "webhook.url"),
        ({"url": "http://169.254.169.254/latest"}, "webhook.url"),
        ({"url": "https://example.com", "events": ["session.opened"]}, "webhook.events"),
        ({"url": "https://example.com", "events": []}, "webhook.events"),
        ({"url": "https://example.com", "secret": "short"}, "webhook.secret"),
    ],
)
async def test_a_webhook_that_cannot_be_is_refused(desk: InProcess, webhook: Any, field: str) -> None:
    body = {"message": "hello", "session_id": "s1", "webhook": webhook}
    requests = [
        (ASYNC, body),
        ("/api/v1/batch", {"items": [body], "webhook": webhook}),
        ("/api/v1/schedules", body | {"cron": "0 9 * * *"}),
    ]
    for path, asked in requests:
        status, problem = await desk.call("POST", path, asked)
        assert (status, problem["field"]) == (400, field)
    assert await desk.heavy.stores.webhooks.of_tenant("default", limit=9) == []


async def test_a_webhook_is_kept_with_the_task_and_its_retry(desk: InProcess) -> None:
    hook = {"url": "https://example.com/hook", "events": ["task.failed"]}
    _, first = await submit(desk, "please fail", max_attempts=1, webhook=hook)
    await until(desk, first["task_id"], "failure")
    (row,) = await desk.heavy.stores.webhooks.of_tenant("default", limit=9)
    assert (row.kind, row.receiver.url) == ("request", hook["url"])
    _, again = await desk.call("POST", f"/api/v1/task/{first['task_id']}/retry")
    await until(desk, again["task_id"], "failure")
    _, other = await submit(desk, webhook=hook | {"events": ["task.cancelled"]})
    await until(desk, other["task_id"], "success")

    async def messages() -> list[str]:
        deliveries = await desk.heavy.stores.deliveries.of_tenant("default", limit=9)
        return [d.type for d in deliveries if d.webhook_id == row.webhook_id]

    async def both() -> bool:
        return len(await messages()) == 2

    await wait_until(both, "both failures have made a message")
    assert await messages() == ["task.failed"] * 2


async def test_the_limits_of_the_tenant_hold_for_tasks(desk: InProcess, gateway: FailingGateway) -> None:
    await desk.heavy.stores.access.set_limits("default", {"concurrent_turns": 1})
    await desk.heavy.access.look()
    gateway.open.clear()
    _, first = await submit(desk, session="a")
    await wait_until(lambda: desk.heavy.owner.get(first["task_id"]) is not None, "the first task runs")
    _, second = await submit(desk, session="b")

    async def put_off() -> bool:
        waiting = await task(desk, second["task_id"])
        return bool(waiting["run_at"] > waiting["created_at"])

    await wait_until(put_off, "the second one is put off")
    assert desk.heavy.owner.get(second["task_id"]) is None
    gateway.open.set()
    done = await until(desk, second["task_id"], "success")
    assert (done["attempts"], (await task(desk, first["task_id"]))["status"]) == (1, "success")
