"""One LLM turn beside the bare SDK call: latency, turns a second of server CPU, stream relay, first delta, memory of an open stream.

`python -m loadtests.turns_bench [--out FILE]` starts a private PostgreSQL (durable commits) and Redis, a mock LLM and one heavy process,
reached with signed tickets. The server has core 0, everything else core 1; rates are per second of the server's own CPU time, which
other work on the machine does not change much. The reference is the `openai` SDK calling the same mock, on core 0 too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import pwd
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from common.contracts.query import new_turn_id
from common.contracts.ticket import HEADER, Plan, Ticket, sign
from loadtests.http1 import Connection
from loadtests.processes import Process, free_port, wait_listening, wait_ready
from loadtests.programs import json_of

SERVER_CPU, LOAD_CPU = 0, 1
LOADSPLIT = str(Path(sys.executable).with_name("loadsplit"))
SECRET = secrets.token_hex(16)
AGENT = "bench"
TICKS = os.sysconf("SC_CLK_TCK")
DELTAS, STREAMS = 1000, 8
WORKFLOW = {
    "agent_id": AGENT,
    "basic_settings": {"name": "Shop", "description": "A shop's assistant."},
    "skills": [
        {
            "skill_id": "orders",
            "description": "Questions about orders",
            "trigger_patterns": ["order"],
            "execution_mode": "agent",
            "system_prompt": "You answer questions about orders. Be brief and exact.",
            "tools": ["get_order"],
            "require_done_tool": False,
        }
    ],
    "tools": [
        {
            "name": "get_order",
            "description": "Looks an order up",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
            "endpoint": {"url": "http://127.0.0.1:9/orders/{order_id}", "method": "GET"},
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Started:
    """What was started: the heavy process, and the mock's base URL."""

    pid: int
    port: int
    llm: str


class Load:
    """Asks the heavy tier as the lightweight one would."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self._sessions = 0
        self.times: list[float] = []
        self.deltas = 0

    def request(self, message: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a turn in a new session."""
        self._sessions += 1
        session = f"bench-{os.getpid()}-{id(self)}-{self._sessions}"
        ticket = Ticket("default", AGENT, session, new_turn_id(), "", Plan("skill", "orders", "order"))
        return json.dumps({"message": message, "session_id": session}).encode(), {HEADER: sign(ticket, SECRET.encode())}

    async def turns(self, connection: Connection, end: float) -> None:
        """Whole replies until `end`."""
        while time.perf_counter() < end:
            body, headers = self.request("where is my order")
            began = time.perf_counter()
            reply = await connection.post("/api/v1/query", body, headers)
            self.times.append(time.perf_counter() - began)
            if b'"llm_calls":1' not in reply:
                raise RuntimeError(f"not one LLM call: {reply[:300]!r}")

    async def streams(self, connection: Connection, end: float, message: str = f"order, deltas {DELTAS}") -> None:
        """Streams, one after another, until `end`; measures the first delta of each."""
        while time.perf_counter() < end:
            body, headers = self.request(message)
            began, first, rest = time.perf_counter(), None, b""
            async for data in connection.stream("/api/v1/query/stream", body, headers):
                data = rest + data
                cut = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
                found = data[:cut].count(b"event: text\n")
                rest = data[cut:]
                if found and first is None:
                    first = time.perf_counter() - began
                self.deltas += found
                if b"event: error" in data:
                    raise RuntimeError(f"a stream failed: {data[-500:]!r}")
            if first is None:
                raise RuntimeError("a stream without text")
            self.times.append(first)

    async def run(self, work: Callable[[Connection, float], Awaitable[None]], connections: int, seconds: float) -> dict[str, float]:
        """So many connections at work; the figures, the server's CPU time among them."""
        open_ = [Connection(self._started.port) for _ in range(connections)]
        for connection in open_:
            await connection.open()
        self.times, self.deltas = [], 0
        began, cpu = time.perf_counter(), cpu_seconds(self._started.pid)
        await asyncio.gather(*(work(c, began + seconds) for c in open_))
        took, cpu = time.perf_counter() - began, cpu_seconds(self._started.pid) - cpu
        for connection in open_:
            connection.close()
        figures = {"calls": len(self.times), "seconds": took, "cpu_seconds": cpu, "deltas": self.deltas}
        return {**figures, "p50_ms": statistics.median(self.times) * 1000}

    async def memory(self, streams: int) -> float:
        """KB of the server's memory for each of so many open streams that have had their first delta."""
        before = resident(self._started.pid)

        async def hold() -> Held:
            connection = Connection(self._started.port)
            await connection.open()
            body, headers = self.request("order, hold 25")
            stream = connection.stream("/api/v1/query/stream", body, headers)
            seen = b""
            async for data in stream:
                seen += data
                if b"event: text" in seen:
                    break
            return Held(connection, stream)

        held = []
        for _ in range(0, streams, 50):
            held += await asyncio.gather(*(hold() for _ in range(50)))
        after = resident(self._started.pid)
        for one in held:
            one.connection.close()
        return (after - before) / len(held)


@dataclass(frozen=True, slots=True)
class Held:
    """An open stream and what keeps it open."""

    connection: Connection
    stream: Any


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Resident memory in KB."""
    line = next(s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("VmRSS"))
    return float(line.split()[1])


def main() -> int:
    """Measures and prints; writes the raw figures to --out."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.turns_bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of load for each row and round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--streams", type=int, default=500, help="open at once for the memory row; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadsplit-turns-") as folder, ExitStack() as stack:
        started = stack.enter_context(servers(Path(folder)))
        os.sched_setaffinity(0, {LOAD_CPU})
        rows = uvloop.run(measure(started, options))
    report(rows, options)
    return 0


async def measure(started: Started, options: argparse.Namespace) -> dict[str, list[Any]]:
    """Every row in turn, round after round, so that drift of the machine meets all of them."""
    load = Load(started)
    rows: dict[str, list[Any]] = {}
    await load.run(load.turns, options.connections, 1)
    for number in range(options.rounds):
        for name, work, connections in (
            ("turn, 1 connection", load.turns, 1),
            ("turns, many connections", load.turns, options.connections),
            ("relay", load.streams, STREAMS),
            ("first delta", lambda c, end: load.streams(c, end, "short order"), 1),
        ):
            rows.setdefault(name, []).append(await load.run(work, connections, options.seconds))
        for name, arguments in (
            ("SDK call, 1 connection", ["--connections", "1"]),
            ("SDK calls, many connections", ["--connections", str(options.connections)]),
            ("SDK stream", ["--connections", str(STREAMS), "--stream", "--message", f"deltas {DELTAS}"]),
            ("SDK first delta", ["--stream"]),
        ):
            rows.setdefault(name, []).append(await asyncio.to_thread(reference, started, arguments, options.seconds))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    if options.streams:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        rows["KB an open stream"] = [await load.memory(options.streams)]
    return rows


def reference(started: Started, arguments: list[str], seconds: float) -> dict[str, float]:
    """The SDK's figures, in a process on the server's core."""
    command = ["taskset", "-c", str(SERVER_CPU), sys.executable, "-m", "loadtests.references.bare_sdk", "--url", started.llm]
    figures: dict[str, float] = json_of([*command, "--seconds", str(seconds), *arguments])
    return figures


def report(rows: dict[str, list[Any]], options: argparse.Namespace) -> None:
    """Medians over the rounds, beside the reference and the promise."""

    def median(row: str, figure: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(figure(r) for r in rows[row])

    def p50(row: str) -> float:
        return median(row, lambda r: r["p50_ms"])

    def cpu_ms(row: str) -> float:
        return median(row, lambda r: 1000 * r["cpu_seconds"] / r["calls"])

    def rate(row: str, what: str, by: str) -> float:
        return median(row, lambda r: r[what] / r[by])

    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    many, sdk_many = "turns, many connections", "SDK calls, many connections"
    lines = [
        ("one LLM turn, p50 at 1 connection, ms", p50("turn, 1 connection"), p50("SDK call, 1 connection"), "+2.0"),
        ("… CPU of the server, ms", cpu_ms("turn, 1 connection"), cpu_ms("SDK call, 1 connection"), ""),
        (f"turns/s, {options.connections} connections", rate(many, "calls", "seconds"), rate(sdk_many, "calls", "seconds"), ""),
        ("… per second of CPU", rate(many, "calls", "cpu_seconds"), rate(sdk_many, "calls", "cpu_seconds"), "400"),
        ("… CPU of the server, ms a turn", cpu_ms(many), cpu_ms(sdk_many), ""),
        ("relay, deltas/s", rate("relay", "deltas", "seconds"), rate("SDK stream", "deltas", "seconds"), ""),
        ("… per second of CPU", rate("relay", "deltas", "cpu_seconds"), rate("SDK stream", "deltas", "cpu_seconds"), "40 000"),
        ("first delta, p50 at 1 connection, ms", p50("first delta"), p50("SDK first delta"), "+1.5"),
    ]  # fmt: skip
    print(f"\n{machine}; {options.rounds} rounds of {options.seconds:g} s; PostgreSQL with durable commits, Redis\n")
    print(f"{'row':<40} {'loadsplit':>10} {'bare SDK':>10} {'more':>8}  promise")
    for name, ours, theirs, promise in lines:
        print(f"{name:<40} {ours:>10.2f} {theirs:>10.2f} {ours - theirs:>+8.2f}  {promise}")
    if "KB an open stream" in rows:
        print(f"{'memory of an open stream, KB':<40} {rows['KB an open stream'][0]:>10.1f} {'':>10} {'':>8}  30")
    if options.out:
        options.out.write_text(
            json.dumps({"machine": machine, "options": {**vars(options), "out": str(options.out)}, "rows": rows}, indent=1)
        )


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Started]:
    """PostgreSQL, Redis and the mock on the load's core, the heavy tier on its own."""
    folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
    with ExitStack() as stack:
        database = stack.enter_context(postgres_server(folder))
        redis, llm, port = free_port(), free_port(), free_port()
        command = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        wait_listening(redis, stack.enter_context(Process(command, log=folder / "redis.log", cpu=LOAD_CPU)))
        command = [sys.executable, "-m", "loadtests.references.bare_llm", "--port", str(llm)]
        wait_listening(llm, stack.enter_context(Process(command, log=folder / "llm.log", cpu=LOAD_CPU)))
        config, url = folder / "workflow.json", f"http://127.0.0.1:{llm}/v1"
        config.write_text(json.dumps(WORKFLOW))
        env = {
            "LOADSPLIT_DATABASE_URL": database,
            "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            "LOADSPLIT_TICKET_SECRET": SECRET,
            "LOADSPLIT_MIN_INFLIGHT": "1000",  # streams are opened all at once here: none of them is refused
            "LOADSPLIT_DATA_DIR": str(folder / "data"),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": url,
            "OPENAI_MODEL": "gpt-4.1-mini",
        }
        command = ["env", *(f"{k}={v}" for k, v in env.items()), LOADSPLIT, "heavy", "--port", str(port), "--config", str(config)]
        heavy = stack.enter_context(Process(command, log=folder / "heavy.log", cpu=SERVER_CPU, grace=5))
        try:
            wait_ready(f"http://127.0.0.1:{port}/readyz", heavy)
            yield Started(heavy.pid, port, url)
        finally:
            if "Traceback" in (log := heavy.log.read_text()):
                print(log[-4000:], file=sys.stderr)


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """A private cluster with the usual durability."""
    programs = {name: shutil.which(name) or str(max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))) for name in ("initdb", "postgres")}
    home, port = folder / "postgres", free_port()
    home.mkdir()
    become: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        entry = pwd.getpwnam("postgres")
        os.chown(home, entry.pw_uid, entry.pw_gid)
        become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    options = ["-D", str(home / "data"), "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run([*become, programs["initdb"], *options], check=True, capture_output=True, cwd="/")
    command = [*become, programs["postgres"], "-D", str(home / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    with Process(command, log=folder / "postgres.log", cpu=LOAD_CPU) as process:
        wait_listening(port, process)
        time.sleep(1)  # it listens before it is ready
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"


if __name__ == "__main__":
    sys.exit(main())
