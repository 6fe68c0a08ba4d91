"""`loadsplit worker`: a process without an API that runs the tasks which heavy leaves to it, and ends as cleanly as heavy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stories.test_a_query_runs_by_itself import submit, task, until
from tests.support.running import Running, role
from tests.support.shop import write_workflow
from tests.support.split import metric
from tests.support.waiting import wait_until_sync


@pytest.fixture
def heavy_and_worker(env: dict[str, str], redis_database: str, postgres_database: str, tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    """A heavy replica without slots for tasks, and a worker."""
    config = write_workflow(tmp_path)
    stores = {**env, "LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database}
    heavy = role("heavy", config, tmp_path, {**stores, "LOADSPLIT_TASKS_AT_ONCE": "0"})
    worker = role("worker", config, tmp_path, stores)
    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, (heavy, worker)))
        yield heavy, worker


def test_it_runs_what_heavy_takes(heavy_and_worker: tuple[Running, Running]) -> None:
    heavy, worker = heavy_and_worker
    done = until(heavy.client, submit(heavy.client, "please send it back", "worker-1"), "success")
    assert done["result"]["message"].endswith("Your return is open.")
    wait_until_sync(lambda: metric(worker.client, "tasks_total", outcome="success") == 1, "the worker has ended it")
    assert metric(heavy.client, "tasks_total") == 0
    assert [e for e in heavy.client.messages("worker-1") if e[0] == "user"] == [("user", "please send it back")]


def test_it_serves_what_watches_it_and_nothing_else(heavy_and_worker: tuple[Running, Running]) -> None:
    worker = heavy_and_worker[1].client
    health = worker.call("GET", "/api/v1/health")
    assert (health.json["status"], health.json["tier"], health.headers["x-loadsplit-tier"]) == ("healthy", "worker", "worker")
    assert [worker.call("GET", path).status for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]
    for method, path in (("POST", "/api/v1/query"), ("GET", "/api/v1/tasks"), ("GET", "/"), ("GET", "/docs"), ("GET", "/admin")):
        assert worker.call(method, path).status == 404


def test_what_it_runs_ends_before_it_does(heavy_and_worker: tuple[Running, Running]) -> None:
    heavy, worker = heavy_and_worker
    task_id = submit(heavy.client, "tell me a slow story", "worker-2")
    wait_until_sync(lambda: task(heavy.client, task_id)["turn_state"] == "running", "the worker runs it")
    late = submit(heavy.client, "tell me something", "worker-3", delay_seconds=3600)
    assert worker.stop() == 0
    done = until(heavy.client, task_id, "success")
    assert done["attempts"] == 1
    assert task(heavy.client, late)["status"] == "pending"
    assert '"exception"' not in worker.log()
