"""A query as a task: submitted, polled, done; later; cancelled; failed, tried again; listed. The session's watchers hear of it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, StreamEvent
from tests.support.running import serve
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync


def submit(client: Client, message: str, session: str, **more: Any) -> str:
    reply = client.call("POST", "/api/v1/query/async", {"message": message, "session_id": session, **more})
    assert (reply.status, reply.json["status"], reply.json["session_id"]) == (202, "pending", session)
    return str(reply.json["task_id"])


def task(client: Client, task_id: str) -> Any:
    return client.call("GET", f"/api/v1/task/{task_id}").json


def until(client: Client, task_id: str, status: str, seconds: float = 20) -> Any:
    wait_until_sync(lambda: task(client, task_id)["status"] == status, f"the task is {status}", seconds)
    return task(client, task_id)


def told(client: Client, session: str, count: int) -> list[StreamEvent]:
    """The first events of a session."""
    stream = client.get_stream(f"/api/v1/session/{session}/events")
    events = stream.take(count)
    stream.close()
    return events


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of its own for each test and topology."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)


def test_it_is_answered_while_nobody_waits(client: Client, session: str) -> None:
    task_id = submit(client, "tell me something", session)
    done = until(client, task_id, "success")
    assert (done["result"]["message"], done["attempts"]) == ("Plain words.", 1)
    assert client.messages(session) == [("user", "tell me something"), ("assistant", "Plain words.")]
    (event,) = told(client, session, 1)
    assert (event.type, event.data["task_id"], event.data["result"]) == ("task.completed", task_id, done["result"])
    assert client.call("GET", f"/api/v1/turns/{task_id}").json["result"] == done["result"]


def test_a_skill_calls_its_tools(client: Client, session: str) -> None:
    done = until(client, submit(client, "please send it back", session), "success")
    assert done["result"]["message"].endswith("Your return is open.")
    assert done["result"]["usage"]["llm_calls"] == 4


def test_it_waits_for_its_time(client: Client, session: str) -> None:
    late = submit(client, "tell me something", session, delay_seconds=3600)
    at = submit(client, "tell me something", f"{session}-at", run_at=time.time() + 1)
    assert task(client, at)["status"] == "pending"
    assert until(client, at, "success")["started_at"] >= task(client, at)["run_at"]
    assert task(client, late)["status"] == "pending"
    assert client.ask("tell me something", session).status == 200  # what waits holds nobody up


def test_tasks_of_a_session_keep_their_order(client: Client, session: str) -> None:
    ids = [submit(client, f"one by one {n}", session) for n in range(3)]
    for task_id in ids:
        until(client, task_id, "success")
    assert [text for role, text in client.messages(session) if role == "user"] == [f"one by one {n}" for n in range(3)]


def test_it_is_cancelled_while_it_waits_and_while_it_runs(client: Client, session: str) -> None:
    waits = submit(client, "tell me something", session, delay_seconds=3600)
    reply = client.call("DELETE", f"/api/v1/task/{waits}")
    assert (reply.status, reply.json["status"]) == (200, "cancelled")
    runs = submit(client, "tell me a slow story", session)
    wait_until_sync(lambda: task(client, runs)["turn_state"] == "running", "it runs")
    assert client.call("DELETE", f"/api/v1/task/{runs}").status in (200, 202)
    assert until(client, runs, "cancelled")["result"] is None
    done = submit(client, "tell me something", f"{session}-2")
    until(client, done, "success")
    assert client.call("DELETE", f"/api/v1/task/{done}").status == 409


def test_what_fails_is_kept_and_tried_again_by_hand(client: Client, session: str) -> None:
    failed = until(client, submit(client, "fail at once", session, max_attempts=1), "failure")
    assert (failed["error"]["status"], failed["result"], failed["attempts"]) == (502, None, 1)
    listed = client.call("GET", f"/api/v1/tasks?status=failure&session_id={session}").json["tasks"]
    assert [t["task_id"] for t in listed] == [failed["task_id"]]
    again = client.call("POST", f"/api/v1/task/{failed['task_id']}/retry")
    assert (again.status, again.json["retry_of"]) == (202, failed["task_id"])
    until(client, again.json["task_id"], "failure")
    assert client.ask("tell me something", session).status == 200  # the session is usable


def test_the_same_key_gives_the_same_task(client: Client, session: str) -> None:
    body = {"message": "tell me something", "session_id": session}
    replies = [client.call("POST", "/api/v1/query/async", body, headers={"Idempotency-Key": session}) for _ in range(3)]
    assert len({r.json["task_id"] for r in replies}) == 1
    assert [r.headers.get("idempotent-replayed") for r in replies] == [None, "true", "true"]
    other = client.call("POST", "/api/v1/query/async", body | {"message": "else"}, headers={"Idempotency-Key": session})
    assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")
    until(client, replies[0].json["task_id"], "success")
    assert len(client.messages(session)) == 2


def test_a_batch_runs_and_its_results_are_lines(client: Client, session: str) -> None:
    given: list[Any] = [{"message": "tell me something", "session_id": f"{session}-{n}"} for n in range(12)]
    given[3], given[7] = {"message": "no session"}, "nonsense"
    reply = client.call("POST", "/api/v1/batch", {"items": given})
    assert (reply.status, reply.json["accepted"], reply.json["rejected"]) == (202, 10, 2)
    path = f"/api/v1/batch/{reply.json['batch_id']}"
    wait_until_sync(lambda: client.call("GET", path).json["status"] == "finished", "the batch is finished", 40)
    counts = client.call("GET", path).json["counts"]
    assert counts == {"pending": 0, "running": 0, "success": 10, "failure": 2, "cancelled": 0}
    lines = [json.loads(line) for line in client.call("GET", f"{path}/results").body.splitlines()]
    assert [line["index"] for line in lines] == list(range(12))
    assert [line["index"] for line in lines if line["status"] == "failure"] == [3, 7]
    assert lines[3]["error"]["field"] == "items[3].session_id"
    assert {line["result"]["message"] for line in lines if line["status"] == "success"} == {"Plain words."}
    rest = client.call("GET", f"{path}/results?after=9").body.splitlines()
    assert [json.loads(line)["index"] for line in rest] == [10, 11]


def test_bad_requests_name_their_field(client: Client) -> None:
    for change, field in (({"run_at": "soon"}, "run_at"), ({"delay_seconds": -1}, "delay_seconds"), ({"agent_id": "nobody"}, "agent_id")):
        reply = client.call("POST", "/api/v1/query/async", {"message": "x", "session_id": "s", **change})
        assert (reply.status, reply.json["field"]) == (400, field)
    assert client.call("GET", "/api/v1/task/t_unknown").status == 404
    assert client.call("GET", "/api/v1/tasks?cursor=lie").json["field"] == "cursor"


def test_a_restart_loses_no_task(env: dict[str, str], tmp_path: Path) -> None:
    """kill -9 with one task running and one that waits for its time; both are done by the process that comes after."""
    settings = {**env, "LOADSPLIT_LEASE_SECONDS": "1"}
    with serve(write_workflow(tmp_path), tmp_path, settings) as server:
        runs = submit(server.client, "tell me a slow story", "restart-1")
        wait_until_sync(lambda: task(server.client, runs)["turn_state"] == "running", "it runs")
        waits = submit(server.client, "tell me something", "restart-2", delay_seconds=2)
        server.kill()
        server.start()
        assert until(server.client, waits, "success")["attempts"] == 1
        done = until(server.client, runs, "success", 30)
        assert (done["result"]["message"].split()[:2], done["attempts"]) == (["word0", "word1"], 1)
        assert [e.type for e in told(server.client, "restart-1", 1)] == ["task.completed"]
