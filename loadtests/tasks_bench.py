"""The queue of tasks: how many a second, how long a submission takes, how soon a task starts, also behind ten thousand others, what
interactive turns feel of that, and how soon a killed node's task goes on.

`python -m loadtests.tasks_bench [--out FILE]` starts a private PostgreSQL (durable commits), Redis, a mock LLM that takes 10 ms, and two
heavy processes with 8 slots each, the second one only for the last row. Where pydocket can be imported it does the same amount of
sleeping as a reference. Latencies are those of the clocks of database and client on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from common.contracts.query import new_turn_id
from common.contracts.ticket import HEADER, Plan, Ticket, sign
from loadtests.processes import Process, free_port, wait_listening, wait_ready
from loadtests.turns_bench import LOADSPLIT, postgres_server

SECRET = secrets.token_hex(16)
AGENT, SLOTS = "bench", 8
WORK = "wait 10"  # what the mock LLM is told: milliseconds
LEASE_SECONDS = 8
BATCH = 10_000
# One LLM call a turn: there is nothing to choose from.
WORKFLOW = {"agent_id": AGENT, "basic_settings": {"name": "Shop", "description": "A shop's assistant."}}


@dataclass(frozen=True, slots=True)
class Started:
    """The two heavy processes and Redis."""

    heavy: list[Process]
    urls: list[str]
    redis: str


class Load:
    """Calls the first heavy process, or another one."""

    def __init__(self, http: aiohttp.ClientSession, urls: list[str]) -> None:
        self._http = http
        self._urls = urls
        self._sessions = 0

    def session(self) -> str:
        """A new session."""
        self._sessions += 1
        return f"bench-{os.getpid()}-{self._sessions}"

    async def call(self, method: str, path: str, body: Any = None, *, at: int = 0, headers: dict[str, str] | None = None) -> Any:
        """The JSON of a reply that is no error."""
        async with self._http.request(method, self._urls[at] + path, json=body, headers=headers) as reply:
            if reply.status >= 400:
                raise RuntimeError(f"{method} {path}: {reply.status} {(await reply.text())[:300]}")
            return await reply.json()

    async def submit(self, message: str = WORK, **more: Any) -> str:
        """A task of its own session; its id."""
        reply = await self.call("POST", "/api/v1/query/async", {"message": message, "session_id": self.session(), **more})
        return str(reply["task_id"])

    async def ended(self, task_id: str, *, at: int = 0) -> Any:
        """The task when it has succeeded."""
        while True:
            task = await self.call("GET", f"/api/v1/task/{task_id}", at=at)
            if task["status"] == "success":
                return task
            if task["status"] not in ("pending", "running"):
                raise RuntimeError(f"a task failed: {task}")
            await asyncio.sleep(0.005)

    async def ask(self) -> float:
        """Seconds of one interactive turn."""
        session = self.session()
        ticket = sign(Ticket("default", AGENT, session, new_turn_id(), "", Plan()), SECRET.encode())
        began = time.perf_counter()
        await self.call("POST", "/api/v1/query", {"message": WORK, "session_id": session}, headers={HEADER: ticket})
        return time.perf_counter() - began


async def rate(load: Load, tasks: int) -> float:
    """Tasks a second, when so many fall due at once."""
    due = time.time() + 2 + tasks / 100
    ids = [await load.submit(run_at=due) for _ in range(tasks)]
    found = [await load.ended(task_id) for task_id in ids]
    began, ended = min(t["started_at"] for t in found), max(t["finished_at"] for t in found)
    return float(tasks / (ended - began))


async def submissions(load: Load, count: int) -> list[float]:
    """Milliseconds of each of so many submissions, one after another."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await load.submit(delay_seconds=86400)
        times.append(1000 * (time.perf_counter() - began))
    return times


async def starts(load: Load, count: int) -> list[float]:
    """Milliseconds from the submission of a task to its start, one after another."""
    found = [await load.ended(await load.submit()) for _ in range(count)]
    return [1000 * (t["started_at"] - t["created_at"]) for t in found]


async def directly(load: Load, turns: int) -> float:
    """Interactive turns a second, as many at a time as there are slots: what the same work costs without a queue."""
    began = time.perf_counter()
    await interactive(load, turns, SLOTS)
    return turns / (time.perf_counter() - began)


async def interactive(load: Load, count: int, at_once: int = 4) -> list[float]:
    """Milliseconds of interactive turns, so many at a time."""
    times: list[float] = []

    async def some() -> None:
        for _ in range(count // at_once):
            times.append(1000 * await load.ask())

    await asyncio.gather(*(some() for _ in range(at_once)))
    return times


async def behind_a_batch(load: Load, rows: dict[str, Any]) -> None:
    """The same beside ten thousand tasks that wait."""
    items = [{"message": WORK, "session_id": load.session()} for _ in range(BATCH)]
    began = time.perf_counter()
    batch = await load.call("POST", "/api/v1/batch", {"items": items})
    rows["10 000 items stored, ms"] = 1000 * (time.perf_counter() - began)
    path = f"/api/v1/batch/{batch['batch_id']}"
    rows["start, 10 000 waiting, ms"] = await starts(load, 100)
    rows["interactive turn, 10 000 waiting, ms"] = await interactive(load, 200)
    rows["items left meanwhile"] = (await load.call("GET", path))["counts"]["pending"]
    began = time.perf_counter()
    await load.call("DELETE", path)
    rows["the rest cancelled, ms"] = 1000 * (time.perf_counter() - began)


async def recovery(load: Load, killed: Process) -> float:
    """Seconds from kill -9 of the node that runs a task to its end on the other one; its LLM call takes two seconds of that."""
    task_id = await load.submit("wait 2000")
    await asyncio.sleep(1)  # by now its LLM call is half over
    os.killpg(killed.pid, signal.SIGKILL)
    began = time.perf_counter()
    await load.ended(task_id, at=1)
    return time.perf_counter() - began


async def measure(started: Started, options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    rows: dict[str, Any] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        load = Load(http, started.urls)
        await rate(load, 50)
        rounds = [(await rate(load, options.tasks), await directly(load, options.tasks)) for _ in range(options.rounds)]
        rows["tasks/s"] = [tasks for tasks, _ in rounds]
        rows["the same turns asked directly/s"] = [turns for _, turns in rounds]
        rows["submit, ms"] = await submissions(load, 300)
        rows["start, nothing waiting, ms"] = await starts(load, 100)
        rows["interactive turn, ms"] = await interactive(load, 200)
        await behind_a_batch(load, rows)
        rows["recovery, s"] = await recovery(load, started.heavy[0])
    return rows


def reference(started: Started, options: argparse.Namespace) -> dict[str, Any] | None:
    """pydocket's figures, where it is installed."""
    if importlib.util.find_spec("docket") is None:
        return None
    command = [sys.executable, "-m", "loadtests.references.docket_worker", "--redis", started.redis, "--slots", str(SLOTS)]
    done = subprocess.run([*command, "--tasks", str(options.tasks)], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def report(rows: dict[str, Any], docket: dict[str, Any] | None, options: argparse.Namespace) -> None:
    """Median and slowest of each row."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    print(f"\n{machine}; one heavy process with {SLOTS} slots, 10 ms of LLM a task; PostgreSQL with durable commits, Redis\n")
    print(f"{'row':<40} {'median':>10} {'slowest':>10}")
    for name, value in rows.items():
        values = value if isinstance(value, list) else [value]
        slowest = min(values) if name.endswith("/s") else max(values)
        print(f"{name:<40} {statistics.median(values):>10.1f} {slowest:>10.1f}")
    for interval, figures in (docket or {}).items():
        print(f"{f'pydocket, sleeping only, {interval} s: tasks/s':<40} {figures['tasks_a_second']:>10.1f}")
        print(f"{'… add, ms':<40} {figures['add_p50_ms']:>10.1f} {figures['add_max_ms']:>10.1f}")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "rows": rows, "pydocket": docket}, indent=1))


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Started]:
    """PostgreSQL, Redis, the mock and two heavy processes."""
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    with ExitStack() as stack:
        database = stack.enter_context(postgres_server(folder))
        redis, llm = free_port(), free_port()
        command = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        wait_listening(redis, stack.enter_context(Process(command, log=folder / "redis.log")))
        command = [sys.executable, "-m", "loadtests.references.bare_llm", "--port", str(llm)]
        wait_listening(llm, stack.enter_context(Process(command, log=folder / "llm.log")))
        config = folder / "workflow.json"
        config.write_text(json.dumps(WORKFLOW))
        env = {
            "LOADSPLIT_DATABASE_URL": database,
            "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            "LOADSPLIT_TICKET_SECRET": SECRET,
            "LOADSPLIT_DATA_DIR": str(folder / "data"),
            "LOADSPLIT_LEASE_SECONDS": str(LEASE_SECONDS),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{llm}/v1",
        }
        heavy, urls = [], []
        for number, slots in enumerate((SLOTS, 0)):
            port = free_port()
            settings = [f"{k}={v}" for k, v in (env | {"LOADSPLIT_TASKS_AT_ONCE": str(slots)}).items()]
            command = ["env", *settings, LOADSPLIT, "heavy", "--port", str(port), "--config", str(config)]
            heavy.append(stack.enter_context(Process(command, log=folder / f"heavy-{number}.log", grace=5)))
            urls.append(f"http://127.0.0.1:{port}")
        for url, process in zip(urls, heavy, strict=True):
            wait_ready(f"{url}/readyz", process)
        try:
            yield Started(heavy, urls, f"redis://127.0.0.1:{redis}/1")
        finally:
            for process in heavy:
                if "Traceback" in (log := process.log.read_text()):
                    print(log[-4000:], file=sys.stderr)


def main() -> int:
    """Measures and prints; writes the raw figures to --out."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.tasks_bench", description=__doc__)
    parser.add_argument("--tasks", type=int, default=400, help="that fall due at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadsplit-tasks-") as folder, servers(Path(folder)) as started:
        rows = uvloop.run(measure(started, options))
        docket = reference(started, options)
    report(rows, docket, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
