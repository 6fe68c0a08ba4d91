"""Batches over HTTP: broken items at their places, counts, results as JSON lines in pages, cancelling, keys that repeat, bad bodies."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from heavy.jobs.rows import NewBatch
from heavy.routes import batches
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess
from tests.support.job_node import FailingGateway
from tests.support.tasks import new_task
from tests.support.waiting import wait_until

BATCH = "/api/v1/batch"


def items(count: int) -> list[dict[str, Any]]:
    return [{"message": f"item {n}", "session_id": f"s{n}"} for n in range(count)]


async def submit(desk: InProcess, given: Any, **more: Any) -> Any:
    status, reply = await desk.call("POST", BATCH, {"items": given, **more})
    assert status == 202, reply
    checked("BatchAccepted", reply)
    return reply


async def batch(desk: InProcess, batch_id: str) -> Any:
    return (await desk.call("GET", f"{BATCH}/{batch_id}"))[1]


async def lines(desk: InProcess, batch_id: str, after: int | None = None) -> list[Any]:
    query = "" if after is None else f"?after={after}"
    async with desk.http.get(f"{desk.url}{BATCH}/{batch_id}/results{query}") as reply:
        assert (reply.status, reply.content_type) == (200, "application/jsonl")
        return [json.loads(line) for line in (await reply.text()).splitlines()]


async def finished(desk: InProcess, batch_id: str) -> Any:
    async def so() -> bool:
        return bool((await batch(desk, batch_id))["status"] == "finished")

    await wait_until(so, "the batch is finished")
    return await batch(desk, batch_id)


async def test_the_broken_items_fail_and_the_rest_runs(desk: InProcess) -> None:
    given = [*items(2), {"message": "no session"}, 5, {"message": "x", "session_id": "s9", "agent_id": "nobody"}, *items(1)]
    reply = await submit(desk, given)
    assert (reply["total"], reply["accepted"], reply["rejected"]) == (6, 3, 3)
    assert [(e["index"], e["error"]["field"]) for e in reply["errors"]] == [
        (2, "items[2].session_id"),
        (3, "items[3]"),
        (4, "items[4].agent_id"),
    ]
    done = await finished(desk, reply["batch_id"])
    checked("Batch", done)
    assert done["counts"] == {"pending": 0, "running": 0, "success": 3, "failure": 3, "cancelled": 0}
    assert done["finished_at"] >= done["created_at"]
    found = await lines(desk, reply["batch_id"])
    for line in found:
        checked("BatchItem", line)
    assert [line["index"] for line in found] == list(range(6))
    assert [line["result"]["message"] if line["result"] else line["error"]["code"] for line in found] == [
        "you said item 0", "you said item 1", "invalid_request", "invalid_request", "invalid_request", "you said item 0",
    ]  # fmt: skip
    _, task = await desk.call("GET", f"/api/v1/task/{found[1]['task_id']}")
    assert (task["batch_id"], task["index"]) == (reply["batch_id"], 1)
    status, problem = await desk.call("POST", f"/api/v1/task/{found[3]['task_id']}/retry")
    assert (status, problem["code"]) == (409, "invalid_request")


async def test_results_come_in_pages_from_any_place(desk: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PAGE", 3)
    reply = await submit(desk, items(8))
    await finished(desk, reply["batch_id"])
    assert [line["index"] for line in await lines(desk, reply["batch_id"])] == list(range(8))
    assert [line["index"] for line in await lines(desk, reply["batch_id"], 4)] == [5, 6, 7]
    assert await lines(desk, reply["batch_id"], 7) == []
    for after in ("x", "-2", "", "1e3", "9" * 30, "٣"):
        status, problem = await desk.call("GET", f"{BATCH}/{reply['batch_id']}/results?after={after}")
        assert (status, problem["field"]) == (400, "after")


async def test_what_has_not_begun_is_cancelled(desk: InProcess, gateway: FailingGateway) -> None:
    gateway.open.clear()
    reply = await submit(desk, items(10))
    await wait_until(lambda: len(desk.heavy.owner) == 4, "half of the slots are taken")
    status, stopped = await desk.call("DELETE", f"{BATCH}/{reply['batch_id']}")
    assert (status, stopped["status"]) == (200, "running")
    assert (stopped["counts"]["running"], stopped["counts"]["cancelled"]) == (4, 6)
    gateway.open.set()
    done = await finished(desk, reply["batch_id"])
    assert (done["counts"]["success"], done["counts"]["cancelled"]) == (4, 6)


async def test_a_batch_may_wait(desk: InProcess) -> None:
    reply = await submit(desk, items(2), delay_seconds=60, max_attempts=1)
    found = await lines(desk, reply["batch_id"])
    assert [line["status"] for line in found] == ["pending"] * 2
    _, task = await desk.call("GET", f"/api/v1/task/{found[0]['task_id']}")
    assert (task["max_attempts"], task["run_at"] - task["created_at"]) == (1, 60)


async def test_a_batch_of_broken_items_is_finished_at_once(desk: InProcess) -> None:
    reply = await submit(desk, [{}] * 30)
    assert len(reply["errors"]) == batches.ERRORS_TOLD
    done = await batch(desk, reply["batch_id"])
    assert (done["status"], done["counts"]["failure"]) == ("finished", 30)


async def test_a_key_gives_the_first_reply_again(desk: InProcess) -> None:
    body = {"items": [*items(2), {}], "delay_seconds": 60}
    replies = []
    for _ in range(2):
        async with desk.http.post(desk.url + BATCH, json=body, headers={"Idempotency-Key": "k1"}) as reply:
            replies.append((reply.status, reply.headers.get("Idempotent-Replayed"), await reply.json()))
    assert [(status, replayed) for status, replayed, _ in replies] == [(202, None), (202, "true")]
    assert replies[0][2] == replies[1][2]
    status, problem = await desk.call("POST", BATCH, {"items": items(1)}, headers={"Idempotency-Key": "k1"})
    assert (status, problem["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"items": []}', b'{"items": [1], "run_at": "x"}', b"\xff\xfe"])
async def test_what_is_no_batch_is_refused(desk: InProcess, body: bytes) -> None:
    status, problem = await desk.call("POST", BATCH, body, headers={"Content-Type": "application/json"})
    assert (status, problem["code"]) == (400, "invalid_request")


async def test_the_limit_of_the_body_is_its_own(desk: InProcess) -> None:
    whole = json.dumps({"items": [{"message": "x" * 1000, "session_id": "s1"}] * 400, "delay_seconds": 60}).encode()
    status, reply = await desk.call("POST", BATCH, whole, headers={"Content-Type": "application/json"})
    assert (status, reply["accepted"]) == (202, 400)

    async def too_much() -> Any:
        for _ in range(17):
            yield b" " * 2**20

    async with desk.http.post(desk.url + BATCH, data=too_much(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 413
        assert (await answer.json())["detail"] == "the body is larger than 16777216 bytes"
    async with desk.http.post(desk.url + BATCH, data=aiohttp.FormData({"a": "b"})) as answer:
        assert answer.status == 415


async def test_only_so_many_large_bodies_are_read_at_once(desk: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "READ_AT_ONCE", 0)
    whole = json.dumps({"items": [{"message": "x" * 1000, "session_id": "s1"}] * 400}).encode()
    async with desk.http.post(desk.url + BATCH, data=whole, headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json(content_type=None))["code"] == "overloaded"
    monkeypatch.undo()
    assert (await desk.call("POST", BATCH, {"items": items(1), "delay_seconds": 60}))[0] == 202


async def test_foreign_batches_look_like_unknown_ones(desk: InProcess) -> None:
    await desk.heavy.stores.tasks.submit_batch(NewBatch("other", "b_1"), [new_task(tenant="other", batch_id="b_1", position=0)])
    answers = set()
    for batch_id in ("b_1", "b_2"):
        for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
            status, problem = await desk.call(method, f"{BATCH}/{batch_id}{path}")
            answers.add((status, problem["code"], problem["detail"]))
    assert answers == {(404, "not_found", "there is no such batch")}
