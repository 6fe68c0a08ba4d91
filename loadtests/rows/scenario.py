"""Locust: users of every kind against a split with the simulators, by a master and two workers; and the arrivals of a file as streams,
their token counts driving the simulated LLM.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from loadtests.arrivals import profile
from loadtests.load import EXAMPLE, LOCUSTFILE
from loadtests.processes import Process, free_port, wait_ready
from loadtests.rows.stage import Plot, Stage, over_time
from loadtests.split import LOADSPLIT
from loadtests.topologies import Topology, start

WORKERS, USERS = 2, 40
SPEED = 1.0
HEAD = ["kind", "requests", "failures", "p50 ms", "p95 ms", "p99 ms", "req/s"]
COLUMNS = ("Name", "Request Count", "Failure Count", "50%", "95%", "99%", "Requests/s")


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 2 * stage.scale.scenario_seconds + 16


def measure(stage: Stage) -> None:
    """The users first, then the arrivals."""
    _users(stage)
    _replay(stage)


def _users(stage: Stage) -> None:
    folder, port = stage.subfolder("users"), free_port()
    command = [LOADSPLIT, "up", "--config", str(EXAMPLE), "--port", str(port), "--demo", "--lightweight", "1", "--heavy", "1"]
    with Process([*command, "--data-dir", str(folder / "data")], log=folder / "up.log") as split:
        wait_ready(f"http://127.0.0.1:{port}/api/v1/health", split)
        bind = str(free_port())
        common = ["-f", str(LOCUSTFILE), "--headless", "--host", f"http://127.0.0.1:{port}"]
        files = ["--messages", str(stage.messages)] if stage.messages else []
        with ExitStack() as stack:
            for number in range(WORKERS):
                worker = [sys.executable, "-m", "locust", *common, "--worker", "--master-port", bind]
                stack.enter_context(Process([*worker, *files], log=folder / f"worker-{number}.log", grace=5))
            master = [*common, "--master", "--master-bind-port", bind, "--expect-workers", str(WORKERS), "--shape", "ramp", *files]
            length = ["-u", str(USERS), "-t", f"{stage.scale.scenario_seconds}s", "--csv", str(folder / "users")]
            _locust(folder, [*master, *length, "--csv-full-history"])
    rows = list(csv.DictReader((folder / "users_stats.csv").read_text().splitlines()))
    stage.found.tables[f"Up to {USERS} users, split 1+1 behind Nginx, {WORKERS} Locust workers"] = [HEAD, *map(_row, rows)]
    for row in rows:
        stage.found.add(f"users.{row['Name']}.p99_ms", float(row["99%"] or 0))
        stage.found.add(f"users.{row['Name']}.failures", float(row["Failure Count"]))
    _history(stage, folder / "users_stats_history.csv")
    stage.found.note("Users: customer service example, simulated LLM and business API at their usual pace; nothing is pinned to a core.")
    stage.say("users")


def _row(row: dict[str, str]) -> list[object]:
    return [row[name] if name == "Name" else _number(row[name]) for name in COLUMNS]


def _number(written: str) -> float | str:
    try:
        value = float(written)
    except ValueError:
        return written
    return int(value) if value.is_integer() else value


def _history(stage: Stage, path: Path) -> None:
    """Percentiles of all requests over the run, of the ten seconds before each point."""
    plot = Plot("Latency while the users grow in number", "seconds", "ms", log_y=True)
    began: float | None = None
    for row in csv.DictReader(path.read_text().splitlines()):
        if row["Name"] != "Aggregated" or row["50%"] in ("N/A", ""):
            continue
        began = began if began is not None else float(row["Timestamp"])
        for share in ("50%", "95%", "99%"):
            plot.lines.setdefault(f"p{share[:-1]}", []).append([float(row["Timestamp"]) - began, float(row[share])])
    if plot.lines:
        stage.found.plots["users over time"] = plot


def _replay(stage: Stage) -> None:
    folder = stage.subfolder("replay")
    (folder / "profile.json").write_text(json.dumps(profile()))
    with ExitStack() as stack:
        running = start(stack, folder, Topology(profile=folder / "profile.json"))
        command = ["-f", str(LOCUSTFILE.with_name("replay.py")), "--headless", "--host", running.url, "-u", "1"]
        command += ["-t", f"{stage.scale.scenario_seconds}s", "--stop-timeout", "20", "--speed", str(SPEED)]
        command += ["--summary-json", str(folder / "replay.json")]
        _locust(folder, [*command, *(["--arrivals", str(stage.arrivals)] if stage.arrivals else [])])
    document = json.loads((folder / "replay.json").read_text())
    rows: list[list[object]] = [["kind", "samples", "failures", "p50 ms", "p95 ms", "p99 ms", "a second"]]
    for kind, figures in document["kinds"].items():
        rows.append([kind, *(figures[name] or 0 for name in ("count", "failures", "p50_ms", "p95_ms", "p99_ms", "rate"))])
        for name in ("p50_ms", "p99_ms", "failures", "count"):
            stage.found.add(f"replay.{kind}.{name}", figures[name] or 0)
    what = stage.arrivals.name if stage.arrivals else "made arrivals"
    stage.found.tables[f"Streams at the times of {what}"] = rows
    firsts = [(at, ms) for at, kind, ms in document["steps"] if kind == "first token"]
    plot = Plot("First token of replayed streams", "seconds", "ms")
    plot.lines = {name: over_time(firsts, share, 1.0) for name, share in (("p50", 0.5), ("p99", 0.99))}
    stage.found.plots["first token"] = plot
    stage.found.note(
        "Arrivals: the simulated LLM waits 50 ms, then a token every 5 ms, as many as the file says; prompts are as long as it says."
    )


def _locust(folder: Path, arguments: list[str]) -> None:
    """Runs Locust. Raises RuntimeError with its last words unless it has done its work; failed requests are figures, not errors."""
    done = subprocess.run([sys.executable, "-m", "locust", *arguments], capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"locust ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
