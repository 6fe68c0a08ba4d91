"""Tasks whose node is killed or frozen, whose tools lose replies, that always fail, that are ten thousand; ticks whose scheduler dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.odd_api import OddApi
from tests.support.receiver import Receiver
from tests.support.redis_client import redis_command
from tests.support.running import Running
from tests.support.services import PostgresServer, RedisServer
from tests.support.split import Split, metric
from tests.support.waiting import wait_until_sync

# The lease (8 s) and the looks for ended ones and for unsettled tasks (1 and 2 s), with time to spare.
TAKEN_OVER = 25.0


def submit(client: Client, message: str, session: str, **more: Any) -> str:
    reply = client.call("POST", "/api/v1/query/async", {"message": message, "session_id": session, **more})
    assert reply.status == 202, reply.body
    return str(reply.json["task_id"])


def task(client: Client, task_id: str) -> Any:
    return client.call("GET", f"/api/v1/task/{task_id}").json


def until(client: Client, task_id: str, status: str, seconds: float = TAKEN_OVER) -> Any:
    wait_until_sync(lambda: task(client, task_id)["status"] == status, f"the task is {status}", seconds)
    return task(client, task_id)


def runner(split: Split) -> tuple[Running, Client]:
    """The replica that runs the only turn, and a client of the other: whichever looked first has the task, wherever it was handed in."""
    wait_until_sync(lambda: sorted(metric(replica.client, "turns_inflight") for replica in split.heavy) == [0, 1], "one turn runs")
    first, second = split.heavy
    return (first, second.client) if metric(first.client, "turns_inflight") else (second, first.client)


def told(client: Client, session: str, count: int) -> list[tuple[str, str]]:
    """Type and task of exactly so many events of a session, which must be all."""
    wait_until_sync(
        lambda: client.call("GET", f"/api/v1/session/{session}").json["last_event_id"] >= count, "the session is told", TAKEN_OVER
    )
    assert client.call("GET", f"/api/v1/session/{session}").json["last_event_id"] == count
    stream = client.get_stream(f"/api/v1/session/{session}/events")
    events = stream.take(count)
    stream.close()
    return [(e.type, e.data["task_id"]) for e in events]


def effects(business: Running, task_id: str) -> list[str]:
    """The reasons of the tickets that a task has opened."""
    last = business.client.call("GET", "/effects").json["last"]
    return [e["body"]["message"] for e in last if (e["key"] or "").startswith(task_id)]


def test_killed_in_the_third_of_five_steps(split: Split, business: Running, receiver: Receiver) -> None:
    hook = {"url": f"{receiver.url}/five-steps"}
    task_id = submit(split.heavy[0].client, "ledger, five steps", "jobs-steps", agent_id="clerk", webhook=hook)
    killed, other = runner(split)
    wait_until_sync(lambda: len(effects(business, task_id)) == 2, "two of five steps are done")
    killed.kill()
    wait_until_sync(lambda: len(effects(business, task_id)) > 2, "it goes on elsewhere", 12)
    done = until(other, task_id, "success")
    assert done["result"]["message"] == "The ledger is done."
    assert effects(business, task_id) == [f"step {n}" for n in range(1, 6)]
    assert (done["attempts"], other.call("GET", f"/api/v1/turns/{task_id}").json["attempt"]) == (1, 2)
    assert told(other, "jobs-steps", 1) == [("task.completed", task_id)]
    wait_until_sync(lambda: receiver.at("/five-steps"), "the webhook is told")
    (message,) = receiver.at("/five-steps")
    assert (message.json["type"], message.json["data"]["result"]) == ("task.completed", done["result"])


def test_frozen_past_its_lease(split: Split, llm: Running) -> None:
    """Another node ends the task; what the thawed one says then changes nothing and is told to nobody."""
    task_id = submit(split.heavy[0].client, "a late answer", "jobs-frozen")
    frozen, other = runner(split)
    ended = metric(frozen.client, "tasks_total", outcome="success"), metric(other, "tasks_total", outcome="success")
    wait_until_sync(lambda: "a late answer" in str(llm.client.call("GET", "/stats").json["last"][-1:]), "the LLM is asked")
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    try:
        done = until(other, task_id, "success")
        assert told(other, "jobs-frozen", 1) == [("task.completed", task_id)]
    finally:
        os.killpg(frozen.process.pid, signal.SIGCONT)
    wait_until_sync(lambda: metric(frozen.client, "turns_inflight") == 0, "the thawed node lets go of it")
    assert told(frozen.client, "jobs-frozen", 1) == [("task.completed", task_id)]
    again = task(frozen.client, task_id)
    assert (again["result"], again["finished_at"]) == (done["result"], done["finished_at"])
    assert metric(frozen.client, "tasks_total", outcome="success") == ended[0]
    assert metric(other, "tasks_total", outcome="success") == ended[1] + 1


def test_a_tools_reply_is_lost(split: Split, odd_api: OddApi) -> None:
    """The call is made again with the same key, and has had one effect."""
    task_id = submit(split.heavy[0].client, "posting", "jobs-lost", agent_id="clerk")
    done = until(split.heavy[0].client, task_id, "success")
    assert done["result"]["message"] == "The posting is done."
    keys = [s.headers["idempotency-key"] for s in odd_api.seen if s.path == "/once" and s.headers["idempotency-key"].startswith(task_id)]
    assert len(keys) == 2
    assert [key for key in odd_api.once if key.startswith(task_id)] == [keys[0]] == [keys[1]]


def test_a_tools_reply_is_lost_with_the_node(split: Split, odd_api: OddApi) -> None:
    """The same where the node dies while it waits for the reply."""
    task_id = submit(split.heavy[0].client, "hanging", "jobs-hanging", agent_id="clerk")
    killed, other = runner(split)
    wait_until_sync(lambda: any(key.startswith(task_id) for key in odd_api.once), "the effect is there")
    killed.kill()
    done = until(other, task_id, "success")
    assert done["result"]["message"] == "The hanging is done."
    keys = [
        s.headers["idempotency-key"] for s in odd_api.seen if s.path == "/once/hang" and s.headers["idempotency-key"].startswith(task_id)
    ]
    assert len(keys) == 2
    assert [key for key in odd_api.once if key.startswith(task_id)] == [keys[0]] == [keys[1]]


def test_what_always_fails_ends_and_the_queue_moves(split: Split) -> None:
    client = split.heavy[0].client
    failing = [submit(client, "fail at once", "jobs-failing", max_attempts=2) for _ in range(3)]
    others = [submit(client, "tell me something", "jobs-failing") for _ in range(3)]
    for task_id in others:
        until(client, task_id, "success")
    for task_id in failing:
        ended = until(client, task_id, "failure")
        assert (ended["attempts"], ended["error"]["code"]) == (2, "llm_error")
    listed = client.call("GET", "/api/v1/tasks?status=failure&session_id=jobs-failing").json["tasks"]
    assert sorted(t["task_id"] for t in listed) == sorted(failing)
    events = told(split.heavy[1].client, "jobs-failing", 6)
    assert sorted(events) == sorted([("task.failed", t) for t in failing] + [("task.completed", t) for t in others])


def test_the_scheduler_is_killed_at_its_ticks(split: Split, postgres: PostgresServer, database: str) -> None:
    """Half an hour of minutes is to be caught up by two replicas, one of which dies in the middle: each tick makes one task."""
    killed, other = split.heavy[0], split.heavy[1].client
    made = other.call("POST", "/api/v1/schedules", {"cron": "* * * * *", "message": "tell me something", "session_id": "jobs-ticks"}).json
    name, where = database.rpartition("/")[2], f"WHERE schedule_id = '{made['schedule_id']}'"
    first = int(time.time()) // 60 * 60 - 1800
    postgres.sql(f"UPDATE schedules SET next_at = {first} {where}", name)
    counted = "SELECT count(*) FROM tasks WHERE schedule_id = '{}'".format(made["schedule_id"])
    wait_until_sync(lambda: postgres.sql(counted, name) != "0", "ticks are caught up")
    killed.kill()
    wait_until_sync(
        lambda: other.call("GET", f"/api/v1/schedules/{made['schedule_id']}").json["next_at"] > time.time(), "all are caught up", TAKEN_OVER
    )
    # Once more, as if the clock had been set back by the half hour.
    postgres.sql(f"UPDATE schedules SET next_at = {first} {where}", name)
    wait_until_sync(
        lambda: other.call("GET", f"/api/v1/schedules/{made['schedule_id']}").json["next_at"] > time.time(), "all are caught up", TAKEN_OVER
    )
    assert other.call("DELETE", f"/api/v1/schedules/{made['schedule_id']}").status == 200
    seen = other.call("GET", f"/api/v1/schedules/{made['schedule_id']}")
    assert seen.status == 404
    ticks = postgres.sql(f"SELECT substr(task_id, 3, 12) FROM tasks WHERE schedule_id = '{made['schedule_id']}' ORDER BY task_id", name)
    times = [int(t, 16) // 1000 for t in ticks.split("\n")]
    assert times == list(range(first, times[-1] + 60, 60))
    assert 31 <= len(times) <= 33  # a minute or two may have passed meanwhile


@pytest.fixture
def whole_redis(redis: RedisServer, split: Split) -> Iterator[RedisServer]:
    yield redis
    redis.thaw()
    for heavy in split.heavy:
        wait_until_sync(lambda h=heavy: h.client.call("GET", "/api/v1/health").json["status"] == "healthy", "Redis is used again", 5)  # type: ignore[misc]


def test_redis_is_frozen_and_wiped(split: Split, whole_redis: RedisServer) -> None:
    """Tasks are in the database: what waits is found by looking, what comes meanwhile is taken."""
    client = split.heavy[0].client
    waiting = [submit(client, "tell me something", f"jobs-redis-{n}", delay_seconds=2) for n in range(5)]
    whole_redis.freeze()
    waiting.append(submit(client, "tell me something", "jobs-redis-frozen"))
    for task_id in waiting:
        assert until(client, task_id, "success")["result"]["message"] == "Plain words."
    late = submit(client, "tell me something", "jobs-redis-late", delay_seconds=2)
    whole_redis.thaw()
    redis_command(whole_redis.port, "FLUSHALL")
    until(client, late, "success")


def test_ten_thousand_in_a_batch_leave_the_others_alone(split: Split) -> None:
    """While they wait and run, every message is answered, a single task does not wait for them, and what has not begun can be stopped."""
    client = split.heavy[0].client
    reply = client.call("POST", "/api/v1/batch", {"items": [{"message": "hi", "session_id": f"jobs-flood-{n}"} for n in range(10_000)]})
    assert (reply.status, reply.json["accepted"]) == (202, 10_000)
    path = f"/api/v1/batch/{reply.json['batch_id']}"

    def running() -> int:
        return int(client.call("GET", path).json["counts"]["running"])

    wait_until_sync(lambda: running() > 4, "both replicas have taken some")  # half of eight slots each
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: split.client.ask("tell me something", f"jobs-beside-{n}").status, range(60)))
        rules = list(pool.map(lambda n: split.client.ask("opening hours", f"jobs-rules-{n}").status, range(60)))
    assert set(answers) == set(rules) == {200}
    # The slot of a turn that has ended is free before its task is settled, so what is counted is turns.
    assert [metric(heavy.client, "turns_inflight") <= 4 for heavy in split.heavy] == [True, True]
    alone = until(client, submit(client, "tell me something", "jobs-alone"), "success")
    assert alone["attempts"] == 1
    counts = client.call("GET", path).json["counts"]
    assert counts["pending"] > 0  # it went before thousands that had come earlier
    stopped = client.call("DELETE", path).json["counts"]
    assert stopped["pending"] == 0
    wait_until_sync(lambda: client.call("GET", path).json["status"] == "finished", "what had begun has ended")
    counts = client.call("GET", path).json["counts"]
    assert counts["success"] + counts["cancelled"] == 10_000
