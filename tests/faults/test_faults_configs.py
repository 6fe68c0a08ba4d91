"""Configs that do harm, at a split that serves the config centre: what does not hold is refused, what holds and harms is taken back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.contracts.rollout import Serving, in_canary
from tests.support.access import KNOWN_SECONDS
from tests.support.client import Answer, Client
from tests.support.running import Running, serve
from tests.support.services import PostgresServer, RedisServer, free_port
from tests.support.split import metric
from tests.support.waiting import wait_until_sync

AGENT = "/admin/api/agents/shop"
ROLLED_BACK_SECONDS = 30.0


def workflow(number: int, **more: Any) -> dict[str, Any]:
    """A version that says its number in both tiers: opening hours by a rule, good-byes by heavy."""
    hours = {"flow_id": "hours", "description": "opening hours", "trigger_patterns": ["open"], "response_template": f"Open, says {number}."}
    bye = {"action_id": "bye", "handler": "close", "trigger_patterns": ["goodbye"], "response_template": f"Bye, says {number}."}
    return {"agent_id": "shop", "fallback_message": "Sorry.", "flows": [hours], "system_actions": [bye], **more}


@dataclass
class Centre:
    """A split without Nginx on the config centre: two replicas of each tier. `versions` has the hash of each number of `workflow`."""

    heavy: list[Running]
    lightweight: list[Running]
    redis: RedisServer
    hashes: dict[str, int] = field(default_factory=dict)

    @property
    def admin(self) -> Client:
        return self.heavy[1].client

    def push(self, number: int, **more: Any) -> int:
        """Stores a version; its number in the centre."""
        answer = self.admin.call("PUT", f"{AGENT}/config", workflow(number, **more))
        assert answer.status == 200, answer.json
        self.hashes[answer.json["hash"]] = number
        return int(answer.json["version"])

    def activate(self, version: int, percent: float | None = None) -> float:
        """Brings a version into force; the seconds until every replica serves it."""
        before = max(self.revisions())
        body = {"version": version} if percent is None else {"version": version, "canary_percent": percent}
        answer = self.admin.call("POST", f"{AGENT}/activate", body)
        assert answer.status == 200, answer.json
        began = time.monotonic()
        wait_until_sync(lambda: min(self.revisions()) > before, "every replica serves the version", KNOWN_SECONDS)
        return time.monotonic() - began

    def revisions(self) -> list[float]:
        return [metric(process.client, "config_revision") for process in (*self.heavy, *self.lightweight)]

    def says(self, answer: Answer) -> int:
        """The version that an answer comes from: the same by its text, its hash and its header."""
        assert answer.status == 200, answer.body
        number = self.hashes[answer.json["config_hash"]]
        assert answer.json["message"].endswith(f"says {number}."), answer.json
        assert answer.headers["x-loadsplit-config"] == answer.json["config_hash"]
        return number


@pytest.fixture(scope="module")
def centre(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    redis, ports = RedisServer(), [free_port() for _ in range(4)]
    redis.start()
    env = {"LOADSPLIT_TICKET_SECRET": "5" * 32, "LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": postgres.create_database()}
    env["LOADSPLIT_HEAVY_URL"] = f"http://127.0.0.1:{ports[0]}"
    processes = []
    for name, port in zip(("heavy", "heavy", "lightweight", "lightweight"), ports, strict=True):
        folder = tmp_path_factory.mktemp(name)  # each a machine of its own
        processes.append(Running([name, "--config", "db:", "--port", str(port)], folder, port=port, env=env, ready="/livez"))
    with ExitStack() as stack:
        stack.callback(redis.close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda process: process.start(), processes))
        stack.callback(_stop, processes)
        made = Centre(processes[:2], processes[2:], redis)
        assert made.lightweight[0].client.call("GET", "/readyz").status == 503, "without an agent it is up and not ready"
        made.activate(made.push(1))
        assert made.lightweight[0].client.call("GET", "/readyz").status == 200
        yield made


def _stop(processes: list[Running]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda process: process.stop(), processes))


def test_33_an_invalid_config_is_refused_and_the_old_one_serves(centre: Centre) -> None:
    text = json.dumps(workflow(1), indent=1).replace('"open"', '"open(?!ed)"')
    answer = centre.admin.call("PUT", f"{AGENT}/config", raw=text.encode(), headers={"content-type": "application/json"})
    assert (answer.status, answer.json["code"]) == (422, "config_invalid")
    problem = next(p for p in answer.json["problems"] if p["level"] == "error")
    line = text.splitlines()[problem["line"] - 1]
    assert line[problem["column"] - 1 :].startswith('"open(?!ed)"')
    for process in centre.lightweight:
        centre.says(process.client.ask("are you open", "s33"))


def test_33_a_process_starts_with_its_last_version_while_the_stores_are_away(centre: Centre) -> None:
    process = centre.lightweight[1]
    before = centre.says(process.client.ask("are you open", "s33b"))
    process.stop()
    centre.redis.stop()
    try:
        process.start()
        wait_until_sync(lambda: process.client.call("GET", "/readyz").status == 200, "it is ready")
        answer = process.client.ask("are you open", "s33c")
        assert centre.says(answer) == before
    finally:
        centre.redis.start()
    wait_until_sync(lambda: centre.lightweight[0].client.call("GET", "/api/v1/health").json["checks"]["hotstore"]["ok"], "Redis is back")


def test_33_an_invalid_file_is_refused_and_the_old_one_serves_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    file.write_text(json.dumps(workflow(1)))
    with serve(file, tmp_path, {}) as server:
        file.write_text('{"agent_id": "shop",\n "flows": 7}')
        wait_until_sync(lambda: f"refused: {file}:2:11: error" in server.log(), "the refusal is logged with line and column", 10)
        for restarted in (False, True):
            if restarted:
                server.stop()
                server.start()
            assert server.client.ask("are you open", "s1").json["message"] == "Open, says 1."
            health = server.client.call("GET", "/api/v1/health").json
            assert health["status"] == "degraded"
            assert f"{file}:2:11" in health["checks"]["config"]["error"]
        file.write_text(json.dumps(workflow(2)))
        wait_until_sync(lambda: server.client.ask("are you open", "s2").json["message"] == "Open, says 2.", "the mended file serves", 10)


def test_34_a_harmful_canary_is_taken_back(centre: Centre) -> None:
    broken = {"flow_id": "hours", "description": "opening hours", "trigger_patterns": ["open"], "endpoint": {"url": "http://127.0.0.1:9/"}}
    number = centre.push(34)
    good = centre.push(2)
    centre.activate(good)
    answer = centre.admin.call("PUT", f"{AGENT}/config", workflow(35, flows=[broken]))
    assert answer.status == 200, answer.json
    harmful = int(answer.json["version"])
    assert harmful == number + 2
    centre.activate(harmful, 50)
    serving = Serving("x", answer.json["hash"], 50)
    began = time.monotonic()
    client = centre.lightweight[0].client
    statuses = {True: set[int](), False: set[int]()}
    for i in range(40):
        statuses[in_canary(serving, "default", f"s34-{i}")].add(client.ask("are you open", f"s34-{i}").status)
    assert statuses[False] == {200}, "the sessions of the active version feel nothing"
    assert 200 not in statuses[True]

    def state() -> Any:
        return centre.admin.call("GET", AGENT).json

    wait_until_sync(lambda: state()["canary"] is None, "the canary is taken back", ROLLED_BACK_SECONDS)
    assert time.monotonic() - began < ROLLED_BACK_SECONDS
    change = state()["changes"][0]
    assert (change["action"], change["version"], state()["active"]) == ("auto_rollback", harmful, good)
    assert "went wrong" in change["note"]
    assert any("is taken back" in process.log() for process in centre.heavy)
    wait_until_sync(lambda: len(set(centre.revisions())) == 1, "every replica knows", KNOWN_SECONDS)
    assert {client.ask("are you open", f"s34-{i}").status for i in range(40)} == {200}


class Load:
    """Clients that ask both tiers of both doors, as fast as they get answers; each answer is checked."""

    def __init__(self, centre: Centre, clients: int) -> None:
        self._centre, self._ended = centre, threading.Event()
        self.answers: list[tuple[str, Answer]] = []
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        client, i = self._centre.lightweight[number % 2].client, 0
        while not self._ended.is_set():
            i += 1
            message = "goodbye" if i % 4 == 0 else "are you open"
            self.answers.append((message, client.ask(message, f"load-{number}-{i}")))


@pytest.mark.parametrize("activations", [18, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_activations_under_load_fail_no_request_and_mix_no_versions(centre: Centre, activations: int) -> None:
    took: list[float] = []
    with Load(centre, 4) as load:
        for i in range(activations):
            if i % 3 == 2:  # a third of them does not hold
                bad = workflow(1000 + i, flows=[{"flow_id": "hours", "trigger_patterns": ["(?<=x)open"], "response_template": "x"}])
                assert centre.admin.call("PUT", f"{AGENT}/config", bad).status == 422
                continue
            took.append(centre.activate(centre.push(100 + i)))
    versions = {message: [centre.says(answer) for m, answer in load.answers if m == message] for message in ("are you open", "goodbye")}
    assert all(len(found) > activations for found in versions.values()), {m: len(found) for m, found in versions.items()}
    assert all(len(set(found)) > len(took) / 3 for found in versions.values())
    assert max(took) < KNOWN_SECONDS
