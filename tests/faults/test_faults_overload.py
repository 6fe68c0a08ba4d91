"""More than a node can take: three times its load, a batch of hundreds, one tenant far beyond its limit, callers without time."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.web.auth import hash_key
from tests.support.access import KNOWN_SECONDS, loadsplit
from tests.support.arrivals import Load, Outcome, good, median_seconds, rate_of
from tests.support.client import Client
from tests.support.running import Running
from tests.support.services import PostgresServer, RedisServer
from tests.support.shop import WORKFLOW
from tests.support.split import Split, metric, split_of
from tests.support.waiting import wait_until_sync

SLOTS = 6
STEADY = "a steady answer"  # its first word comes after 0.3 s
BUSY = "Many are asking just now."
TENANTS = ("house", "greedy", "limited", "other")
OVERLOADED = {"overloaded": 503, "rate_limited": 429}


class Node:
    """A split whose one heavy replica runs six turns at once."""

    def __init__(self, split: Split) -> None:
        self.split, self.url, (self.heavy,) = split, split.lightweight.url, split.heavy

    def load(self, tenant: str, name: str, message: str = STEADY) -> Load:
        """Load of one tenant; `name` is that of its sessions."""
        return Load(self.url, message, name, {"authorization": f"Bearer {tenant}"})

    def client(self, tenant: str = "house") -> Client:
        """The rule tier, with a tenant's key."""
        return self.split.client.with_key(tenant)

    def idle(self) -> None:
        """Returns once nothing runs, and what has just ended has left its place."""
        wait_until_sync(lambda: metric(self.heavy.client, "turns_inflight") == 0, "nothing runs")
        assert self.client().ask("tell me something", "idle").status == 200
        wait_until_sync(lambda: metric(self.heavy.client, "turns_inflight") == 0, "nothing runs")


@pytest.fixture(scope="module")
def running_node(llm: Running, env: dict[str, str], redis: RedisServer, postgres: PostgresServer, folder: Path) -> Iterator[Node]:
    place = folder / "overload"
    place.mkdir()
    keys = [{"id": t, "tenant": t, "scopes": ["query"], "hash": hash_key(t)} for t in TENANTS]
    (place / "keys.json").write_text(json.dumps(keys))
    (place / "shop.json").write_text(json.dumps({**WORKFLOW, "busy_message": BUSY}))
    stores = {"LOADSPLIT_REDIS_URL": redis.url.removesuffix("0") + "7", "LOADSPLIT_DATABASE_URL": postgres.create_database()}
    size = {"LOADSPLIT_MAX_INFLIGHT": str(SLOTS), "LOADSPLIT_QUEUE_SECONDS": "0.5", "LOADSPLIT_TASKS_AT_ONCE": str(SLOTS)}
    every = {**env, **stores, **size, "LOADSPLIT_API_KEYS": str(place / "keys.json")}
    with split_of(place / "shop.json", place, every, replicas=1) as split:
        loadsplit("tenants", "set", "limited", "--concurrent-turns", "1", env=every, cwd=place)
        wait_until_sync(lambda: metric(split.heavy[0].client, "access_revision") > 0, "the limit is known", KNOWN_SECONDS)
        yield Node(split)


@pytest.fixture
def node(running_node: Node) -> Node:
    """The node, at rest."""
    running_node.idle()
    return running_node


def refused(outcomes: list[Outcome]) -> list[Outcome]:
    """Those that were refused, each of which must say so well."""
    found = [o for o in outcomes if o.status != 200]
    for o in found:
        assert OVERLOADED[o.json["code"]] == o.status, o
        assert int(o.headers["retry-after"]) >= 1
    return found


def test_three_times_the_load(node: Node) -> None:
    """As much is answered as at full load, what is too much is refused at once, rules do not feel it, and afterwards all is as before."""
    full = node.load("house", "full").closed(SLOTS, 1.5)
    capacity = rate_of(full, SLOTS)
    assert refused(full) == []

    async def storm() -> tuple[list[Outcome], list[Outcome]]:
        arriving = node.load("house", "storm").arrive(3 * capacity, 2.5)
        return await asyncio.gather(arriving, node.load("house", "rules", "opening hours").talk(2, 2.5))  # type: ignore[return-value]

    stormy, rules = asyncio.run(storm())
    gone = refused(stormy)
    assert len(gone) > len(stormy) / 4
    assert {o.json["message"] for o in gone} == {BUSY}
    assert statistics.median(o.own_seconds for o in gone) < 0.010
    assert rate_of(stormy, SLOTS) >= 0.9 * capacity, (rate_of(stormy, SLOTS), capacity)
    assert max(o.seconds for o in good(stormy)) < 3  # whoever was let in did not wait long
    assert {o.status for o in rules} == {200}
    assert {o.json["route"]["tier"] for o in rules} == {"lightweight"}
    assert metric(node.heavy.client, "admission_refusals_total", tier="heavy") >= len(gone)

    calm = node.load("house", "calm").open(capacity / 2, 1.5)
    assert refused(calm) == []
    assert median_seconds(calm) < 2 * median_seconds(full)


def test_a_batch_of_hundreds(node: Node) -> None:
    """Whoever talks is answered, though the batch goes on meanwhile with what is left."""
    client = Client(node.heavy.url, "house")
    items = [{"message": STEADY, "session_id": f"batch-{n}"} for n in range(600)]
    path = f"/api/v1/batch/{client.call('POST', '/api/v1/batch', {'items': items}).json['batch_id']}"

    def counts() -> Counter[str]:
        return Counter(client.call("GET", path).json["counts"])

    wait_until_sync(lambda: counts()["running"] > 0, "some run")
    talking = node.load("house", "beside").closed(SLOTS - 1, 2)
    assert {o.status for o in talking} == {200}
    assert len(talking) > 2 * SLOTS
    assert counts()["running"] <= SLOTS / 2
    done = counts()["success"]
    wait_until_sync(lambda: counts()["success"] > done, "the batch goes on")
    assert counts()["pending"] > 0
    client.call("DELETE", path)


def test_a_tenant_at_ten_times_its_limit(node: Node) -> None:
    """It is told so, and nobody else feels it."""
    quiet = node.load("other", "quiet").closed(2, 1)

    async def crowd() -> tuple[list[Outcome], list[Outcome]]:
        much = node.load("limited", "much").arrive(30, 1.5)  # it may have one turn at once, of which three fit into a second
        return await asyncio.gather(much, node.load("other", "beside").talk(2, 1.5))  # type: ignore[return-value]

    much, beside = asyncio.run(crowd())
    assert {o.json["limit"] for o in refused(much)} <= {"concurrent_turns", "fair_share"}
    assert 2 <= len(good(much)) <= 9
    assert {o.status for o in beside} == {200}
    assert median_seconds(beside) < 1.5 * median_seconds(quiet)


def test_a_tenant_without_a_limit_leaves_room(node: Node) -> None:
    """Nobody has set one, and it asks for all that there is and more: who asks beside it gets his answers all the same."""

    async def crowd() -> tuple[list[Outcome], list[Outcome]]:
        flood = node.load("greedy", "flood").arrive(50, 2)
        return await asyncio.gather(flood, node.load("other", "modest").talk(2, 2))  # type: ignore[return-value]

    flood, modest = asyncio.run(crowd())
    assert refused(flood)
    assert {o.status for o in modest} == {200}
    assert len(modest) >= 4


def test_no_time_left(node: Node, llm: Running) -> None:
    """Half a second is no time for a model: 504 at once, and the model is not asked; the same behind another turn of the session."""
    client = node.client()
    answer = client.ask("something heavy", "late-1", headers={"X-Loadsplit-Timeout": "0.3"})
    assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.ask, "a slow answer", "late-2")
        wait_until_sync(lambda: metric(node.heavy.client, "turns_inflight") == 1, "the first turn runs")
        answer = client.ask("something heavy", "late-2", headers={"X-Loadsplit-Timeout": "1.8"})
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert first.result().status == 200
    asked = str(llm.client.call("GET", "/stats").json["last"])
    assert "a slow answer" in asked
    assert "something heavy" not in asked
    assert client.ask("opening hours", "late-1", headers={"X-Loadsplit-Timeout": "0.3"}).status == 200
