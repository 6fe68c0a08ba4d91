"""Where a microsecond of the rule path goes: a sampling profile of a rule tier under full load, a row for each step of a request.

`python -m loadtests.profile_rule_path [--seconds 10] [--flow] [--out FILE]`. The process looks at its own stack by a timer that counts its
CPU time alone; a sample belongs to the innermost frame that stands in STEPS, so what a library does counts for the step that called it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from loadtests import wrk
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU
from loadtests.split import ROOT
from loadtests.topologies import SECRET, flow_api, redis_server, tier
from loadtests.turns_bench import cpu_seconds
from loadtests.workflows import FLOW, STATIC, write_workflow
from loadtests.wrk import Asked

# (part of a file's path, function or "", words). The first that fits wins.
STEPS = (
    ("lightweight/matching/", "", "match: fold, RE2, conditions"),
    ("common/contracts/query.py", "", "decode: JSON of the request and its checks"),
    ("lightweight/gate.py", "", "session gate and journal: Redis"),
    ("lightweight/journal.py", "", "session gate and journal: Redis"),
    ("common/hotstore/", "", "session gate and journal: Redis"),
    ("/redis/", "", "session gate and journal: Redis"),
    ("common/endpoints/", "", "HTTP call of the flow"),
    ("/aiohttp/", "", "HTTP call of the flow"),
    ("lightweight/answer.py", "", "answer: template, what is recorded"),
    ("lightweight/replies.py", "", "encode: the reply"),
    ("lightweight/query/endpoint.py", "send_answer", "encode: the reply"),
    ("lightweight/query/endpoint.py", "_reply", "encode: the reply"),
    ("lightweight/query/", "", "the endpoint itself"),
    ("lightweight/", "", "the endpoint itself"),
    ("common/web/auth.py", "", "who is asking"),
    ("common/web/", "", "pure ASGI middleware, reading the body"),
    ("common/telemetry/", "", "metrics"),
    ("/prometheus_client/", "", "metrics"),
    ("/starlette/", "", "routing"),
    ("/uvicorn/", "", "uvicorn: parse the request, write the response"),
    ("/asyncio/", "", "event loop"),
    ("", "", "event loop"),
)
_TEXT = """
import collections, json, os, signal, threading, time

samples = collections.Counter()

def step(frame):
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        for part, function, words in STEPS[:-1]:
            if part in path and function in ("", name):
                return words
        frame = frame.f_back
    return STEPS[-1][2]

def look(number, frame):
    samples[step(frame)] += 1

def write():
    while True:
        with open(FILE + ".new", "w") as file:
            json.dump(dict(samples), file)
        os.replace(FILE + ".new", FILE)
        time.sleep(0.2)

signal.signal(signal.SIGPROF, look)
signal.setitimer(signal.ITIMER_PROF, PERIOD, PERIOD)
threading.Thread(target=write, daemon=True).start()
"""
PERIOD = 0.001
WARM = 1.0


def install(folder: Path) -> dict[str, str]:
    """Writes what Python runs at a process's start; the environment of the process that is to be looked at."""
    folder.mkdir()
    head = f"STEPS = {STEPS!r}\nPERIOD = {PERIOD}\nFILE = {str(folder / 'samples.json')!r}\n"
    (folder / "sitecustomize.py").write_text(head + _TEXT)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def read(folder: Path) -> dict[str, int]:
    """The samples of each step so far."""
    samples: dict[str, int] = json.loads((folder / "samples.json").read_text())
    return samples


def spent(before: Mapping[str, int], after: Mapping[str, int], microseconds: float) -> list[tuple[str, float, float]]:
    """(step, share, microseconds a request), the costliest first, of a request that takes so many in all."""
    counts = {step: count - before.get(step, 0) for step, count in after.items()}
    total = sum(counts.values()) or 1
    return [(step, n / total, n / total * microseconds) for step, n in sorted(counts.items(), key=lambda item: -item[1]) if n]


def measure(folder: Path, seconds: float, message: str, rules: int) -> dict[str, object]:
    """Loads a rule tier with Redis and looks."""
    with ExitStack() as stack:
        environ = {
            "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis_server(stack, folder)}/0",
            "LOADSPLIT_DATA_DIR": str(folder / "data"),
            "LOADSPLIT_TICKET_SECRET": SECRET,
            "LOADSPLIT_HANDOFF": "accel",
            **install(folder / "look"),
        }
        config = write_workflow(folder, flow_api(stack, folder), rules)
        port, process = tier(stack, folder, "lightweight", config, environ, SERVER_CPU)
        url, asked = f"http://127.0.0.1:{port}/api/v1/query", Asked([message], sessions=1000)
        wrk.run(url, asked, folder, WARM, 32, LOAD_CPU)
        time.sleep(0.5)
        before, cpu, began = read(folder / "look"), cpu_seconds(process.pid), time.perf_counter()
        rate, _ = wrk.run(url, asked, folder, seconds, 32, LOAD_CPU)
        took, cpu = time.perf_counter() - began, cpu_seconds(process.pid) - cpu
        time.sleep(0.5)
        each = 1e6 * cpu / (rate * min(took, seconds))
        steps = spent(before, read(folder / "look"), each)
    return {"rate": rate, "us_a_request": each, "steps": steps}


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.profile_rule_path", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--flow", action="store_true", help="a rule with an HTTP call instead of a static answer")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadsplit-profile-", ignore_cleanup_errors=True) as name:
        found = measure(Path(name), options.seconds, FLOW if options.flow else STATIC, options.rules)
    steps: list[tuple[str, float, float]] = found["steps"]  # type: ignore[assignment]
    print(f"{found['rate']:,.0f} requests/s, {found['us_a_request']:.1f} µs of CPU a request, {options.rules} rules\n")
    print("| step | µs | share |\n|---|---|---|")
    for step, share, microseconds in steps:
        print(f"| {step} | {microseconds:.1f} | {share:.0%} |")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
