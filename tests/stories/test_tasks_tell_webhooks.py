"""The webhook of a request hears how its tasks end, and when its batch is finished: signed, once each, on one process and on a split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.contracts.webhooks import new_secret
from tests.stories.test_a_query_runs_by_itself import submit, task, until
from tests.support.client import Client
from tests.support.receiver import Receiver
from tests.support.running import serve
from tests.support.shop import write_workflow
from tests.support.split import split_of
from tests.support.waiting import wait_until_sync


@pytest.fixture
def there() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(params=["single", "split"])
def reaching(
    request: pytest.FixtureRequest, env: dict[str, str], there: Receiver, redis_database: str, postgres_database: str, tmp_path: Path
) -> Iterator[Client]:
    """A loadsplit that may reach the receiver."""
    settings = {**env, "LOADSPLIT_EGRESS_ALLOW": there.allowed}
    if request.param == "single":
        with serve(write_workflow(tmp_path), tmp_path, settings) as server:
            yield server.client
        return
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database}
    with split_of(write_workflow(tmp_path), tmp_path, {**settings, **stores}) as split:
        yield split.client


def heard(there: Receiver, path: str, count: int) -> list[Any]:
    """The bodies of exactly so many messages, by type."""
    wait_until_sync(lambda: len(there.at(path)) >= count, f"{count} messages arrive at {path}", 30)
    assert len({m.id for m in there.at(path)}) == len(there.at(path)) == count
    return sorted((m.json for m in there.at(path)), key=lambda body: body["type"])


def test_each_way_a_task_ends(reaching: Client, there: Receiver) -> None:
    secret = new_secret()
    hook = {"url": f"{there.url}/tasks", "secret": secret}
    good = submit(reaching, "tell me something", "hook-1", webhook=hook)
    bad = submit(reaching, "fail at once", "hook-2", max_attempts=1, webhook=hook)
    late = submit(reaching, "tell me something", "hook-3", delay_seconds=3600, webhook=hook)
    reaching.call("DELETE", f"/api/v1/task/{late}")
    cancelled, completed, failed = heard(there, "/tasks", 3)
    assert (cancelled["type"], cancelled["data"]) == ("task.cancelled", {"session_id": "hook-3", "task_id": late, "status": "cancelled"})
    result = task(reaching, good)["result"]
    expected = {"session_id": "hook-1", "task_id": good, "status": "success", "result": result}
    assert (completed["type"], completed["data"]) == ("task.completed", expected)
    assert (failed["type"], failed["data"]["task_id"], failed["data"]["error"]["code"]) == ("task.failed", bad, "llm_error")
    for message in there.at("/tasks"):
        assert message.verified(secret)["data"]["status"] in ("success", "failure", "cancelled")


def test_a_batch_tells_when_it_is_finished(reaching: Client, there: Receiver) -> None:
    items = [{"message": "tell me something", "session_id": f"hook-b{n}"} for n in range(4)]
    all_of_it, end_only = f"{there.url}/all", f"{there.url}/end"
    first = reaching.call("POST", "/api/v1/batch", {"items": [*items, {}], "webhook": {"url": all_of_it}}).json
    second = reaching.call("POST", "/api/v1/batch", {"items": items, "webhook": {"url": end_only, "events": ["batch.completed"]}}).json
    finished, *tasks = heard(there, "/all", 5)
    assert (finished["type"], finished["data"]) == ("batch.completed", {"batch_id": first["batch_id"], "total": 5, "rejected": 1})
    assert {t["data"]["batch_id"] for t in tasks} == {first["batch_id"]}
    (finished,) = heard(there, "/end", 1)
    assert finished["data"] == {"batch_id": second["batch_id"], "total": 4, "rejected": 0}
    assert reaching.call("GET", f"/api/v1/batch/{second['batch_id']}").json["status"] == "finished"


def test_a_registered_one_hears_of_tasks_too(reaching: Client, there: Receiver) -> None:
    answer = reaching.call("POST", "/api/v1/webhooks", {"url": f"{there.url}/registered", "events": ["task.completed"]})
    task_id = submit(reaching, "tell me something", "hook-r")
    until(reaching, task_id, "success")
    (body,) = heard(there, "/registered", 1)
    assert body["data"]["task_id"] == task_id
    assert there.at("/registered")[0].verified(answer.json["secret"]) == body
