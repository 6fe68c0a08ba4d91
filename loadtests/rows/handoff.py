"""Thousands of LLM streams open through the split: how many connections of theirs the rule tier holds, and what its throughput loses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import threading
from contextlib import ExitStack
from typing import Any

import psutil
import uvloop

from loadtests import wrk
from loadtests.http1 import Connection
from loadtests.http_once import get
from loadtests.rows.stage import LOAD_CPU, Stage
from loadtests.topologies import Running, Topology, start
from loadtests.turns_bench import resident
from loadtests.workflows import STATIC, TURN
from loadtests.wrk import Asked

DRIPS = 1000  # words, one every five seconds; the streams are hung up long before
AT_ONCE = 50


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 10 + stage.scale.streams / 150 + 2 * (2 * stage.scale.rounds + 1) * (max(1, stage.scale.seconds) + 0.2)


def measure(stage: Stage) -> None:
    """Throughput and connections without the streams, with them, and without them again."""
    scale, found = stage.scale, stage.found
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    places = str(max(1000, 2 * scale.streams))  # all streams are taken, however slow their beginning is where so many begin at once
    wanted = Topology(environ={"LOADSPLIT_MAX_INFLIGHT": places, "LOADSPLIT_MIN_INFLIGHT": places})
    with ExitStack() as stack:
        running = start(stack, stage.folder, wanted)
        _round(stage, running, "warm")
        found.figures.clear()
        for _ in range(scale.rounds):
            _round(stage, running, "alone")
        memory = resident(running.heavy[0].pid)
        with Streams(running.port, scale.streams):
            stage.say(f"{scale.streams} streams are open")
            found.add("stream_kb", (resident(running.heavy[0].pid) - memory) / scale.streams)
            for _ in range(scale.rounds):
                _round(stage, running, "beside")
            connections, idle = _connections(running), _kept_by_nginx(running)
            found.add("held", max(0, connections - idle, _under_way(running.lightweight_ports[0], "lightweight")))
            found.add("lightweight.connections", connections)
            found.add("heavy.connections", len(psutil.Process(running.heavy[0].pid).net_connections("tcp")))
            still = _under_way(running.heavy_ports[0], "heavy")
            if still < 0.99 * scale.streams:
                raise RuntimeError(f"only {still} of {scale.streams} streams were still open at the end")
        found.add("streams", still)
    found.note(
        "Split 1+1 behind Nginx, an LLM that says a word every five seconds. `held` is the greater of two: the requests that the rule tier "
        f"has under way when nothing but the streams is open, and its connections beyond the {idle} idle ones that Nginx keeps."
    )


def _round(stage: Stage, running: Running, figure: str) -> None:
    scale = stage.scale
    url = f"http://127.0.0.1:{running.lightweight_ports[0]}/api/v1/query"
    rate, _ = wrk.run(url, Asked([STATIC], sessions=100), stage.folder, scale.seconds, scale.connections, LOAD_CPU)
    stage.found.add(f"{figure}.rate", rate)
    rate, p99 = wrk.run(running.query, Asked([STATIC], sessions=100), stage.folder, scale.seconds, scale.connections, LOAD_CPU)
    stage.found.add(f"{figure}.front_rate", rate)
    stage.found.add(f"{figure}.front_p99_ms", p99)


def _connections(running: Running) -> int:
    """Connections that clients of the rule tier have with it now."""
    process, port = psutil.Process(running.lightweight[0].pid), running.lightweight_ports[0]
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in process.net_connections("tcp"))


def _kept_by_nginx(running: Running) -> int:
    """How many idle connections Nginx keeps to the rule tier."""
    found = re.search(r"keepalive (\d+);", (running.front / "upstreams" / "lightweight.conf").read_text())
    return int(found[1]) if found else 0


def _under_way(port: int, tier: str) -> int:
    """The requests that a process says it has under way."""
    page = get(port, "/metrics")[2].decode()
    found = re.search(rf'^loadsplit_requests_inflight{{tier="{tier}"}} ([\d.e+]+)$', page, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{tier} does not tell how many requests it has under way")
    return int(float(found[1]))


class Streams:
    """So many open streams that have had their first delta, held by a thread. Leaving the context hangs up."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._open, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Streams:
        self._thread.start()
        self._open.wait()
        if self._error is not None:
            raise RuntimeError(f"the streams could not be opened: {self._error}")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        os.sched_setaffinity(threading.get_native_id(), {LOAD_CPU})
        try:
            uvloop.run(self._hold())
        except (OSError, EOFError, RuntimeError) as error:
            self._error = error
        finally:
            self._open.set()

    async def _hold(self) -> None:
        held: list[Any] = []
        try:
            for first in range(0, self._count, AT_ONCE):
                held += await asyncio.gather(*(self._stream(first + n) for n in range(min(AT_ONCE, self._count - first))))
            self._open.set()
            await asyncio.to_thread(self._over.wait)
        finally:
            for connection, _ in held:
                connection.close()

    async def _stream(self, number: int) -> tuple[Connection, Any]:
        connection = Connection(self._port)
        await connection.open()
        body = json.dumps({"message": f"{TURN}, drip {DRIPS}", "session_id": f"held-{number}"}).encode()
        stream, seen = connection.stream("/api/v1/query/stream", body, {}), b""
        async for data in stream:
            seen += data
            if b"event: text" in seen:
                return connection, stream
        raise RuntimeError(f"a stream ended: {seen[-300:]!r}")
