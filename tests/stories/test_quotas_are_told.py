"""Every limit of a tenant: told with 429, the limit's name and when to come back; over again when it is; and never felt by anybody else."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.web.auth import hash_key
from tests.stories.conftest import environment
from tests.support.access import KNOWN_SECONDS, loadsplit
from tests.support.client import Answer, Client
from tests.support.running import Running, serve
from tests.support.services import PostgresServer
from tests.support.shop import write_workflow
from tests.support.split import metric, split_of
from tests.support.waiting import wait_until_sync

TENANTS = ("slow", "busy", "tokens", "money", "streams", "other")


class Shop:
    """A running loadsplit with a key for each tenant."""

    def __init__(self, processes: list[Running], env: Mapping[str, str], folder: Path) -> None:
        self.client, self._processes, self._env, self._folder = processes[0].client, processes, env, folder

    def limit(self, tenant: str, **values: float | None) -> None:
        """Sets limits (None takes one away) and returns once every replica knows them."""
        options = []
        for name, value in values.items():
            option = name.replace("_", "-")
            options += ["--no-limit", option] if value is None else [f"--{option}", str(value)]
        before = self._revisions()
        loadsplit("tenants", "set", tenant, *options, env=self._env, cwd=self._folder)
        wait_until_sync(lambda: min(self._revisions()) > max(before), "every replica knows the limit", KNOWN_SECONDS)

    def _revisions(self) -> list[float]:
        return [metric(process.client, "access_revision") for process in self._processes]

    def of(self, tenant: str) -> Client:
        """The client with this tenant's key."""
        return self.client.with_key(tenant)


@pytest.fixture(scope="module", params=["single", "split"])
def shop(
    request: pytest.FixtureRequest, llm: Running, business: Running, redis_url: str, postgres_server: PostgresServer, folder: Path
) -> Iterator[Shop]:
    place = folder / f"quotas-{request.param}"
    place.mkdir(exist_ok=True)
    keys, models = place / "keys.json", place / "models.json"
    keys.write_text(json.dumps([{"id": t, "tenant": t, "scopes": ["query"], "hash": hash_key(t)} for t in TENANTS]))
    prices = {"input": 1000, "cached_input": 1000, "output": 1000}
    target = {"provider": "openai", "model": "priced", "base_url": llm.url + "/v1", "prices": prices}
    models.write_text(json.dumps({"models": {"default": {"targets": [target]}}}))
    env = {
        **environment("openai", llm, business),
        "LOADSPLIT_API_KEYS": str(keys),
        "LOADSPLIT_MODELS": str(models),
        "LOADSPLIT_REDIS_URL": "memory://" if request.param == "single" else f"{redis_url.rpartition('/')[0]}/13",
        "LOADSPLIT_DATABASE_URL": f"sqlite:///{place}/one.db" if request.param == "single" else postgres_server.create_database(),
    }

    with ExitStack() as stack:
        if request.param == "single":
            processes = [stack.enter_context(serve(write_workflow(place), place, env))]
        else:
            split = stack.enter_context(split_of(write_workflow(place), place, env))
            processes = [split.lightweight, *split.heavy]
        yield Shop(processes, env, place)


def refused(answer: Answer, code: str, limit: str, value: float) -> Any:
    """The problem of a refusal, which must have the form of all of them."""
    problem = answer.json
    assert (answer.status, problem["code"], problem["limit"], problem["value"]) == (429, code, limit, value)
    assert problem["detail"].startswith(f"{limit}: ")
    assert problem["used"] >= value
    assert int(answer.headers["retry-after"]) == problem["retry_after"] >= 1
    return problem


def test_requests_a_minute(shop: Shop) -> None:
    shop.limit("slow", requests_per_minute=30)
    mine = shop.of("slow")
    answers = [mine.ask("opening hours", f"slow-{n}") for n in range(31)]
    assert [a.status for a in answers[:30]] == [200] * 30
    problem = refused(mine.ask("opening hours", "slow-0"), "rate_limited", "requests_per_minute", 30)
    assert problem["retryable"] is True
    assert problem["retry_after"] <= 2
    refused(mine.call("GET", "/api/v1/session/slow-0"), "rate_limited", "requests_per_minute", 30)  # the same at heavy
    assert shop.of("other").ask("opening hours", "slow-0").status == 200
    wait_until_sync(lambda: mine.ask("opening hours", "slow-0").status == 200, "there is room for one more", 5)
    shop.limit("slow", requests_per_minute=None)
    assert [mine.ask("opening hours", f"slow-{n}").status for n in range(40)] == [200] * 40


def test_turns_at_once(shop: Shop) -> None:
    shop.limit("busy", concurrent_turns=1)
    mine = shop.of("busy")
    running = mine.stream("a slow story", "busy-1")
    running.take(3)
    refused(mine.ask("tell me something", "busy-2"), "rate_limited", "concurrent_turns", 1)
    assert mine.ask("opening hours", "busy-2").status == 200  # what a rule answers is no such turn
    assert shop.of("other").ask("tell me something", "busy-2").status == 200
    assert list(running)[-1].type == "complete"
    wait_until_sync(lambda: mine.ask("tell me something", "busy-2").status == 200, "the next one may run", 5)


def test_tokens_a_day(shop: Shop) -> None:
    mine = shop.of("tokens")
    used = mine.ask("tell me something", "tokens-1").json["usage"]
    tokens = used["input_tokens"] + used["output_tokens"]
    most = 2 * tokens - 1
    shop.limit("tokens", tokens_per_day=most)  # what was used today counts, also from before the limit
    assert mine.ask("tell me something", "tokens-2").status == 200
    problem = refused(mine.ask("tell me something", "tokens-3"), "budget_exceeded", "tokens_per_day", most)
    assert problem["retryable"] is False
    assert problem["retry_after"] <= 86400
    midnight = (time.time() + problem["retry_after"]) % 86400
    assert min(midnight, 86400 - midnight) < 5
    streamed = mine.call("POST", "/api/v1/query/stream", {"message": "tell me something", "session_id": "tokens-3"})
    refused(streamed, "budget_exceeded", "tokens_per_day", most)
    assert mine.ask("opening hours", "tokens-3").status == 200
    assert shop.of("other").ask("tell me something", "tokens-3").status == 200
    shop.limit("tokens", tokens_per_day=100 * tokens)
    assert mine.ask("tell me something", "tokens-3").status == 200


def test_money_a_day(shop: Shop) -> None:
    shop.limit("money", cost_usd_per_day=0.001)
    mine = shop.of("money")
    for _ in range(2):  # the first call of a model has spent it all: there is no second, neither in this turn nor in another
        problem = refused(mine.ask("tell me something", "money-1"), "budget_exceeded", "cost_usd_per_day", 0.001)
        assert problem["used"] > 0.001
    assert mine.ask("talk to a human", "money-1").json["status"] == "transferred"  # a person is still reached
    assert mine.ask("are you there?", "money-1").json["status"] == "transferred"
    shop.limit("money", cost_usd_per_day=None)
    assert mine.ask("tell me something", "money-2").status == 200


def test_open_streams(shop: Shop) -> None:
    shop.limit("streams", open_streams=2)
    mine = shop.of("streams")
    path = "/api/v1/session/streams-1/events"
    watching = mine.get_stream(path)
    running = mine.stream("a slow story", "streams-1")
    turn_id = running.take(1)[0].data["turn_id"]
    refused(mine.call("GET", path), "rate_limited", "open_streams", 2)
    refused(mine.call("GET", f"/api/v1/turns/{turn_id}/stream"), "rate_limited", "open_streams", 2)
    body = {"message": "tell me something", "session_id": "streams-2"}
    refused(mine.call("POST", "/api/v1/query/stream", body), "rate_limited", "open_streams", 2)
    assert mine.ask("tell me something", "streams-2").status == 200  # a reply in one piece is no stream
    other = shop.of("other").get_stream(path)
    assert other.status == 200
    other.close()
    watching.close()

    def resumes() -> bool:
        with contextlib.closing(mine.resume(turn_id, 0)) as again:
            return again.status == 200

    wait_until_sync(resumes, "the closed one is given back", 5)
    running.close()


def test_a_fair_share_of_a_full_node(env: dict[str, str], tmp_path: Path) -> None:
    """A node of four turns: who is alone may have more than half; when another comes, both have two, and a third still gets in."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([{"id": t, "tenant": t, "scopes": ["query"], "hash": hash_key(t)} for t in TENANTS]))
    settings = {"LOADSPLIT_API_KEYS": str(keys), "LOADSPLIT_MAX_INFLIGHT": "4"}
    with serve(write_workflow(tmp_path), tmp_path, {**env, **settings}) as running:
        greedy, other, third = (running.client.with_key(t) for t in ("busy", "other", "slow"))
        streams = [
            greedy.stream("a slow story", "share-1"),
            greedy.stream("a slow story", "share-2"),
            other.stream("a slow story", "share-1"),
        ]
        for stream in streams:
            stream.take(1)
        problem = refused(greedy.ask("tell me something", "share-3"), "rate_limited", "fair_share", 2)
        assert (problem["used"], problem["retry_after"]) == (2, 1)
        assert greedy.ask("opening hours", "share-3").status == 200  # no turn of the node
        assert third.ask("tell me something", "share-1").status == 200
        assert [list(stream)[-1].type for stream in streams] == ["complete"] * 3
        wait_until_sync(lambda: greedy.ask("tell me something", "share-3").status == 200, "there is room for all", 5)
