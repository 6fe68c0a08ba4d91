"""Two turns at once is all that a small server takes: who waits a moment, who is sent away and with which words, who does not notice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai import InternalServerError, OpenAI

from tests.support.client import Client
from tests.support.running import serve
from tests.support.shop import write_workflow
from tests.support.split import metric
from tests.support.waiting import wait_until_sync

BUSY = "All of us are talking just now."


@pytest.fixture(scope="module")
def client(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    place: Path = tmp_path_factory.mktemp("full-house")
    settings = {"LOADSPLIT_MAX_INFLIGHT": "2", "LOADSPLIT_QUEUE_SECONDS": "1"}
    with serve(write_workflow(place, busy_message=BUSY), place, {**env, **settings}) as server:
        yield server.client


@pytest.fixture
def talks(client: Client, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The ids of two turns with long answers, which fill it."""
    wait_until_sync(lambda: metric(client, "turns_inflight") == 0, "nothing runs")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(client.stream("a slow story", f"{request.node.name}-{n}"))) for n in range(2)]
        turns = [str(stream.take(3)[0].data["turn_id"]) for stream in streams]
        yield turns
        for turn in turns:
            client.call("POST", f"/api/v1/turns/{turn}/cancel")


def test_who_is_sent_away_is_told_when_to_come_back(client: Client, talks: list[str]) -> None:
    def away() -> bool:  # first it is not known that turns take long here
        answer = client.ask("tell me something", "full-1")
        assert (answer.status, answer.json["code"], answer.json["message"]) == (503, "overloaded", BUSY)
        assert int(answer.headers["retry-after"]) >= 1
        return float(answer.headers["server-timing"].rpartition("dur=")[2]) < 50

    wait_until_sync(away, "it is refused at once", 5)
    assert client.ask("opening hours", "full-1").status == 200
    assert client.messages("full-1") == [("user", "opening hours"), ("assistant", "We open at 9.")]  # of the others nothing is left
    with pytest.raises(InternalServerError) as caught, OpenAI(base_url=client.url + "/v1", api_key="x", max_retries=0) as openai:
        openai.chat.completions.create(model="shop", messages=[{"role": "user", "content": "tell me something"}])
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_who_comes_as_a_place_gets_free_waits_a_moment(client: Client, talks: list[str]) -> None:
    """Before him waits a task, which has no place in the queue; it runs behind him, and is not lost."""
    task = client.call("POST", "/api/v1/query/async", {"message": "tell me something", "session_id": "full-task"}).json["task_id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.ask, "tell me something", "full-2")
        wait_until_sync(lambda: metric(client, "admission_waiting") == 1, "it waits")
        assert client.call("GET", f"/api/v1/task/{task}").json["status"] == "pending"
        client.call("POST", f"/api/v1/turns/{talks[0]}/cancel")
        answer = waiting.result()
    assert (answer.status, answer.json["message"]) == (200, "Plain words.")
    wait_until_sync(lambda: client.call("GET", f"/api/v1/task/{task}").json["status"] == "success", "the task has run")
