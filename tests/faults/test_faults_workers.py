"""Several workers behind one port: all of them answer, one page counts for all, and neither a kill nor a rolling restart loses anything
but what was under way in the process that was killed."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.client import Client
from tests.support.running import LOADSPLIT, Running
from tests.support.services import free_port
from tests.support.split import metric
from tests.support.waiting import wait_until_sync

WORKERS, CLIENTS = 3, 8
RULE = {"flow_id": "hello", "trigger_patterns": ["hello"], "response_template": "Good day."}


@dataclass
class Load:
    """Clients who ask, each on a new connection every time, until they are told to stop."""

    client: Client
    stop: threading.Event = field(default_factory=threading.Event)
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, number: int) -> None:
        """One client."""
        for n in itertools.count():
            if self.stop.is_set():
                return
            try:
                answer = self.client.ask("hello", f"load-{number}-{n % 5}")
                assert answer.status == 200, answer.body
                self.answered += 1
            except (OSError, http.client.HTTPException) as e:
                self.failures.append(repr(e))


@contextmanager
def load_on(client: Client) -> Iterator[Load]:
    """Load as long as the context lasts."""
    load = Load(client)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.run, number) for number in range(CLIENTS)]
        try:
            wait_until_sync(lambda: load.answered > 50, "the load runs")
            yield load
            more = load.answered + 50
            wait_until_sync(lambda: load.answered > more, "the load goes on")
        finally:
            load.stop.set()
    for one in clients:
        one.result()


def config_in(folder: Path) -> Path:
    path = folder / "workflow.json"
    path.write_text(json.dumps({"agent_id": "shop", "flows": [RULE]}))
    return path


def started(role: str, folder: Path, env: dict[str, str], *more: str) -> Running:
    port = free_port()
    arguments = [role, "--config", str(config_in(folder)), "--port", str(port), "--workers", str(WORKERS), *more]
    return Running(arguments, folder, port=port, env={"LOADSPLIT_HANDOFF": "accel", **env})


def workers(server: Running) -> set[int]:
    """The process ids of those that listen."""
    listening = set()
    for process in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it was killed a moment ago
            if any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")):
                listening.add(process.pid)
    return listening


@pytest.fixture
def server(redis_database: str, tmp_path: Path) -> Iterator[Running]:
    """Three workers of the rule tier."""
    with started("lightweight", tmp_path, {"LOADSPLIT_REDIS_URL": redis_database}) as running:
        wait_until_sync(lambda: len(workers(running)) == WORKERS, "all workers serve")
        yield running


def test_all_workers_answer_and_one_page_counts_for_all(server: Running) -> None:
    with ExitStack() as stack:
        for _ in range(60):  # connections that stay open, so that one can see whose they are
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))

        def whose() -> Counter[int]:
            return Counter(
                pid for pid in workers(server) for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED
            )

        wait_until_sync(lambda: sum(1 for count in whose().values() if count > 3) == WORKERS, "connections are dealt out")
    for n in range(30):
        assert server.client.ask("hello", f"s-{n}").json["message"] == "Good day."
    for _ in range(6):  # whoever answers
        assert metric(server.client, "requests_total", route_kind="query", status="200") == 30
        assert metric(server.client, "workers") == WORKERS
    assert server.stop() == 0


def test_a_killed_worker_is_started_again_and_its_counts_stay(server: Running) -> None:
    with load_on(server.client) as load:
        before = metric(server.client, "requests_total", route_kind="query", status="200")
        victim = min(workers(server))
        os.kill(victim, signal.SIGKILL)
        wait_until_sync(lambda: victim not in workers(server) and len(workers(server)) == WORKERS, "another one serves in its place")
        after = metric(server.client, "requests_total", route_kind="query", status="200")
    assert after >= before > 0
    assert len(load.failures) <= 2 * CLIENTS  # on its connections, and those that waited to be accepted
    assert metric(server.client, "worker_restarts_total") == 1
    assert metric(server.client, "workers") == WORKERS
    assert "ended (SIGKILL); starting it again" in server.log()


def test_a_rolling_restart_fails_no_request(server: Running) -> None:
    with load_on(server.client) as load:
        old = workers(server)
        server.process.send_signal(signal.SIGHUP)
        wait_until_sync(lambda: "3 workers were replaced, one after the other" in server.log(), "the workers are replaced")
        assert not old & workers(server)
        assert len(workers(server)) == WORKERS
    assert load.failures == []
    assert metric(server.client, "requests_total", route_kind="query", status="200") == load.answered
    assert metric(server.client, "worker_restarts_total") == 0


def test_the_log_level_and_the_operators_port_are_of_all_workers(redis_database: str, tmp_path: Path) -> None:
    port = free_port()
    with started("heavy", tmp_path, {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_ADMIN_PORT": str(port)}) as server:
        operators = Client(f"http://127.0.0.1:{port}")
        wait_until_sync(lambda: metric(operators, "workers") == WORKERS, "all workers serve")
        assert server.client.call("GET", "/metrics").status == 404
        assert operators.call("PUT", "/admin/api/log-level", {"level": "debug"}).status == 200
        wait_until_sync(lambda: server.log().count("the log's level is now debug") == WORKERS, "all workers log more")
    assert server.process.returncode == 0


def test_what_keeps_workers_from_starting_is_one_line(redis_database: str, tmp_path: Path) -> None:
    config, taken = config_in(tmp_path), free_port()
    broken = tmp_path / "broken.json"
    broken.write_text('{"agent_id": "shop", "flows": [}')
    redis = {"LOADSPLIT_REDIS_URL": redis_database}

    def said(*arguments: str, env: dict[str, str] = redis) -> str:
        command = [LOADSPLIT, "lightweight", *arguments]
        given = {**os.environ, "LOADSPLIT_DATA_DIR": str(tmp_path / "data"), **env}
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    port = str(free_port())
    with socket.create_server(("127.0.0.1", taken)):
        assert f"port {taken} on 127.0.0.1 is in use" in said("--config", str(config), "--port", str(taken), "--workers", "2")
    assert "broken.json:1:" in said("--config", str(broken), "--port", port, "--workers", "2")
    assert "LOADSPLIT_WORKERS: 2 processes need LOADSPLIT_REDIS_URL" in said("--config", str(config), "--workers", "2", env={})
    assert "--uds: one process listens" in said("--config", str(config), "--workers", "2", "--uds", str(tmp_path / "s"))
    assert "LOADSPLIT_WORKERS: must be a number from 1 to 64" in said("--config", str(config), "--workers", "some")
