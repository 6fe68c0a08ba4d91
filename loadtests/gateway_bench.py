"""A model asked through the gateway, beside the same call made directly, by the bare SDK, and through the LiteLLM proxy.

`python -m loadtests.gateway_bench [--litellm VENV] [--out FILE]` starts a mock LLM and, one after another, a heavy process and the proxy
of a virtual environment that has it (`pip install "litellm[proxy]"`); without one that column is left out. What is measured has core 0, the
mock and the load core 1. Rates are per second of the server's own CPU time, which other work on the machine does not change much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from loadtests.http1 import Connection
from loadtests.processes import Process, free_port, wait_listening, wait_ready
from loadtests.programs import json_of
from loadtests.turns_bench import LOADSPLIT, cpu_seconds, resident

SERVER_CPU, LOAD_CPU = 0, 1
DELTAS, STREAMS = 1000, 8
PACED, STALL_SECONDS = 60, 1.0
WORKFLOW = {"agent_id": "bench", "flows": [{"flow_id": "f", "trigger_patterns": ["never"], "response_template": "x"}]}
TALK = [{"role": "system", "content": "You are a shop's assistant. " * 8}]


@dataclass(frozen=True, slots=True)
class Door:
    """One way to the mock: a port, the path, the model's name there, and the process that is measured (None: nothing stands between)."""

    name: str
    port: int
    path: str
    model: str
    process: Process | None = None

    def body(self, message: str, *, stream: bool = False) -> bytes:
        """A request."""
        messages = [*TALK, {"role": "user", "content": message}]
        return json.dumps(
            {"model": self.model, "messages": messages, **({"stream": True} if stream else {})}, separators=(",", ":")
        ).encode()


@dataclass(slots=True)
class Load:
    """Asks at one door. `gaps` are the pauses between a stream's pieces, in seconds."""

    door: Door
    times: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    deltas: int = 0

    async def calls(self, connection: Connection, end: float) -> None:
        """Whole replies until `end`."""
        body = self.door.body("where is my order")
        while (began := time.perf_counter()) < end:
            reply = await connection.post(self.door.path, body, {})
            self.times.append(time.perf_counter() - began)
            if b"warehouse" not in reply:
                raise RuntimeError(f"{self.door.name}: not the answer: {reply[:300]!r}")

    async def streams(self, connection: Connection, end: float, message: str = f"deltas {DELTAS}") -> None:
        """Streams, one after another, until `end`; the time is that of the first delta."""
        while time.perf_counter() < end:
            await self.stream(connection, message)

    async def stream(self, connection: Connection, message: str) -> None:
        """One stream."""
        began = last = time.perf_counter()
        first, found = None, 0
        async for data in connection.stream(self.door.path, self.door.body(message, stream=True), {}):
            now = time.perf_counter()
            pieces = data.count(b'"content":" word"')
            if pieces and first is None:
                first = now - began
            elif pieces:
                self.gaps.append(now - last)
            last, found = now, found + pieces
        if first is None:
            raise RuntimeError(f"{self.door.name}: a stream without text")
        self.times.append(first)
        self.deltas += found

    async def run(self, work: Callable[[Connection, float], Any], connections: int, seconds: float) -> dict[str, float]:
        """So many connections at work; the figures, the server's CPU time among them."""
        open_ = await self._open(connections)
        self.times, self.gaps, self.deltas = [], [], 0
        began, cpu = time.perf_counter(), self._cpu()
        await asyncio.gather(*(work(c, began + seconds) for c in open_))
        took, cpu = time.perf_counter() - began, self._cpu() - cpu
        for connection in open_:
            connection.close()
        at = sorted(self.times)
        return {
            "calls": len(at),
            "seconds": took,
            "cpu_seconds": cpu,
            "deltas": self.deltas,
            "p50_ms": statistics.median(at) * 1000,
            "p99_ms": at[int(len(at) * 0.99)] * 1000,
        }

    async def crowd(self, streams: int) -> dict[str, float]:
        """So many paced streams at once: how evenly they flow."""
        open_ = await self._open(streams)
        began, cpu = time.perf_counter(), self._cpu()
        await asyncio.gather(*(self.stream(c, f"paced {PACED}") for c in open_))
        took, cpu, memory = time.perf_counter() - began, self._cpu() - cpu, self.memory()
        for connection in open_:
            connection.close()
        at = sorted(self.gaps)
        return {
            "streams": streams,
            "deltas": self.deltas,
            "seconds": took,
            "cpu_seconds": cpu,
            "gap_p99_ms": at[int(len(at) * 0.99)] * 1000,
            "gap_max_ms": at[-1] * 1000,
            "stalls": sum(gap > STALL_SECONDS for gap in at),
            "rss_mb": memory / 1024,
        }

    def memory(self) -> float:
        """Resident KB of the server."""
        return sum(map(resident, _tree(self.door.process.pid))) if self.door.process else 0.0

    def _cpu(self) -> float:
        return sum(map(cpu_seconds, _tree(self.door.process.pid))) if self.door.process else 0.0

    async def _open(self, connections: int) -> list[Connection]:
        open_ = [Connection(self.door.port) for _ in range(connections)]
        for connection in open_:
            await connection.open()
        return open_


def _tree(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _tree(int(child))


async def measure(door: Door, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one door."""
    load = Load(door)
    await load.run(load.calls, 8, 1.0)
    rows: dict[str, Any] = {"idle_mb": load.memory() / 1024}
    for connections in (1, 32):
        rows[f"calls {connections}"] = [await load.run(load.calls, connections, options.seconds) for _ in range(options.rounds)]
    rows["first delta"] = [await load.run(lambda c, end: load.streams(c, end, "hello"), 1, options.seconds) for _ in range(options.rounds)]
    rows["deltas"] = [await load.run(load.streams, STREAMS, options.seconds) for _ in range(options.rounds)]
    if options.streams:
        rows["crowd"] = [await Load(door).crowd(options.streams)]
    return rows


def sdk(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """The rows of the bare SDK, on the server's core: it is client and all that is measured."""
    command = ["taskset", "-c", str(SERVER_CPU), sys.executable, "-m", "loadtests.references.bare_sdk", "--seconds", str(options.seconds)]

    def run(*arguments: str) -> Any:
        return json_of([*command, "--url", f"http://127.0.0.1:{port}/v1", *arguments])

    many = {f"calls {n}": [run("--connections", str(n)) for _ in range(options.rounds)] for n in (1, 32)}
    stream = ["--stream", "--connections", str(STREAMS), "--message", f"deltas {DELTAS}"]
    return {**many, "first delta": [run("--stream")], "deltas": [run(*stream) for _ in range(options.rounds)]}


@contextlib.contextmanager
def mock_llm(folder: Path) -> Iterator[int]:
    """The mock, on the load's core; its port."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.references.bare_llm", "--port", str(port)]
    with Process(command, log=folder / "llm.log", cpu=LOAD_CPU) as process:
        wait_listening(port, process)
        yield port


@contextlib.contextmanager
def loadsplit(folder: Path, mock: int) -> Iterator[Door]:
    """A heavy process, stores in itself."""
    config, models, port = folder / "workflow.json", folder / "models.json", free_port()
    config.write_text(json.dumps(WORKFLOW))
    target = {"provider": "openai", "model": "gpt-4.1-mini", "base_url": f"http://127.0.0.1:{mock}/v1"}
    models.write_text(json.dumps({"models": {"default": {"targets": [target]}}}))
    env = [
        f"LOADSPLIT_DATA_DIR={folder / 'data'}",
        f"LOADSPLIT_MODELS={models}",
        "LOADSPLIT_MAX_INFLIGHT=5000",
        "LOADSPLIT_MIN_INFLIGHT=5000",
    ]
    command = ["env", *env, LOADSPLIT, "heavy", "--port", str(port), "--config", str(config)]
    with Process(command, log=folder / "heavy.log", cpu=SERVER_CPU, grace=5) as process:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield Door("loadsplit", port, "/v1/chat/completions", "models/default", process)


@contextlib.contextmanager
def litellm(folder: Path, mock: int, venv: Path) -> Iterator[Door]:
    """The LiteLLM proxy of a virtual environment, one worker."""
    config, port = folder / "litellm.yaml", free_port()
    params = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{mock}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]}))  # JSON is YAML
    env = ["LITELLM_LOG=ERROR", "LITELLM_MODE=PRODUCTION", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true"]  # no keys: as ours
    command = ["env", *env, str(venv / "bin" / "litellm")]
    command += ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    with Process(command, log=folder / "litellm.log", cpu=SERVER_CPU, grace=5) as process:
        wait_ready(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield Door("LiteLLM proxy", port, "/v1/chat/completions", "bench", process)


def report(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Medians over the rounds, a column for each way."""

    def median(way: str, row: str, figure: Callable[[dict[str, float]], float]) -> float | None:
        try:
            return statistics.median(figure(r) for r in results[way][row])
        except (KeyError, ZeroDivisionError):
            return None

    lines: list[tuple[str, str, Callable[[dict[str, float]], float]]] = []
    for n in (1, 32):
        lines.append((f"call, {n} connections, p50 ms", f"calls {n}", lambda r: r["p50_ms"]))
        lines.append((f"call, {n} connections, p99 ms", f"calls {n}", lambda r: r["p99_ms"]))
    lines += [
        ("requests a second of CPU, 32 connections", "calls 32", lambda r: r["calls"] / r["cpu_seconds"]),
        ("first delta, p50 ms", "first delta", lambda r: r["p50_ms"]),
        (f"deltas a second of CPU, {STREAMS} streams", "deltas", lambda r: r["deltas"] / r["cpu_seconds"]),
        ("paced streams at once", "crowd", lambda r: r["streams"]),
        ("… deltas/s", "crowd", lambda r: r["deltas"] / r["seconds"]),
        ("… pause p99 ms", "crowd", lambda r: r["gap_p99_ms"]),
        ("… longest pause ms", "crowd", lambda r: r["gap_max_ms"]),
        (f"… pauses over {STALL_SECONDS:g} s", "crowd", lambda r: r["stalls"]),
        ("… resident MB", "crowd", lambda r: r["rss_mb"]),
    ]
    print(f"\n{machine()}; {options.rounds} rounds of {options.seconds:g} s\n")
    print(f"{'row':<44}" + "".join(f"{way:>16}" for way in results))
    for name, row, figure in lines:
        values = [median(way, row, figure) for way in results]
        print(f"{name:<44}" + "".join(f"{'-' if v is None else f'{v:,.2f}':>16}" for v in values))
    idle = [results[way].get("idle_mb") or None for way in results]
    print(f"{'resident MB behind the first calls':<44}" + "".join(f"{'-' if v is None else f'{v:,.2f}':>16}" for v in idle))
    if options.out:
        figures = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}, "results": results}
        options.out.write_text(json.dumps(figures, indent=1))


def machine() -> str:
    """Where it was measured."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"


def main() -> int:
    """Measures and prints; writes the raw figures to --out."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gateway_bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of load for each row and round")
    parser.add_argument("--streams", type=int, default=1000, help="open at once for the rows of paced streams; 0 leaves them out")
    parser.add_argument("--litellm", type=Path, help="a virtual environment with litellm[proxy]")
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.sched_setaffinity(0, {LOAD_CPU})
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="loadsplit-gateway-") as name, ExitStack() as stack:
        folder = Path(name)
        mock = stack.enter_context(mock_llm(folder))
        direct = Door("directly", mock, "/v1/chat/completions", "bench")
        results[direct.name] = uvloop.run(measure(direct, options))
        results["bare SDK"] = sdk(mock, options)
        with loadsplit(folder, mock) as door:
            results[door.name] = uvloop.run(measure(door, options))
        if options.litellm:
            with litellm(folder, mock, options.litellm) as door:
                results[door.name] = uvloop.run(measure(door, options))
        else:
            print("the LiteLLM proxy is left out: name a virtual environment that has it (--litellm)", file=sys.stderr)
    report(results, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
