"""Hours in minutes: seventy percent of what the split can do, and what grows meanwhile: resident memory, descriptors, keys in Redis, rows
and dead rows in PostgreSQL, latency.

What a promise is held against is a figure's median around a third of the time, when caches are full, and at the end; the slope in between
is given for an hour.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from loadtests import asking
from loadtests.programs import json_of
from loadtests.resp import keys_for_ever
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU, Plot, Stage, over_time
from loadtests.stores_seen import redis, rows
from loadtests.topologies import Running, Topology, start
from loadtests.workflows import STATIC, TURN

SHARE = 0.7
CALIBRATION = 5.0
JOURNAL = "ls:journal"  # of rule-answered turns, in Redis
EVENT_LOG = "}:e"  # how the key of a turn's event log ends
MOVE_SECONDS = 60.0  # most that the journal of the calibration takes
PROBE, PROBE_SECONDS = 0.25, 12.0  # of what each reaches alone
SESSIONS = 2_000
KEPT = 100  # samples of latency a second, about
SAMPLES = 120  # over the whole soak
AROUND = 5  # samples whose median counts
TURNS, RULES = 16, 32  # connections that show what it can do
TABLES = "SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables ORDER BY 1"


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return stage.scale.soak_seconds + SESSIONS * stage.scale.soak_history / 3000 + CALIBRATION + PROBE_SECONDS + 30


def measure(stage: Stage) -> None:
    """Calibrates, loads, samples."""
    length = stage.scale.soak_seconds
    with ExitStack() as stack:
        running = start(stack, stage.folder, Topology())
        rates = {"rules": _kept_up(running, stage.scale.soak_history), "turns": _rate(running, TURN, TURNS, LOAD_CPU)}
        stage.say(f"alone: {rates['rules']:.0f} rules/s that reach the database, {rates['turns']:.0f} turns/s")
        for name, rate in rates.items():
            stage.found.add(f"{name}.alone", rate)
        busy = _probe(running, stage.folder, {name: PROBE * rate for name, rate in rates.items()})
        offered = {name: PROBE * rate * SHARE / busy for name, rate in rates.items()}
        for name, rate in offered.items():
            stage.found.add(f"{name}.offered", rate)
        stage.say(f"a core is busy for {busy:.0%} at {PROBE:.0%} of these; offered: {offered['rules']:.0f} and {offered['turns']:.0f}")
        loads = _loads(running, stage.folder, offered, length)
        try:
            samples = _watch(stage, running, loads, length)
        finally:
            for load in loads:
                if load.poll() is None:
                    load.kill()
        stage.found.add("keys besides event logs.end", _lasting(running))
        for_ever = set(asyncio.run(keys_for_ever(running.redis_port))) - {JOURNAL}
        stage.found.add("keys without a time to live", len(for_ever))
    _growth(stage, samples)
    stage.found.add("seconds of rules in the journal", stage.found.figures["journal entries.end"][0] / offered["rules"])
    _latency(stage, stage.folder, length)
    stage.found.note(
        f"Split 1+1 behind Nginx for {length / 60:.0f} minutes; rules and LLM turns in the same {SESSIONS} sessions, whose history is as "
        "long as a prompt's from the start, each at the same share of what it reaches alone (rules: of what is answered and moved into the "
        f"database), such that the busier core has {SHARE:.0%} of its time taken, as a probe showed. Nginx, the rule tier, Redis and the "
        "rules' load on one core; heavy, PostgreSQL, the mock LLM and the turns' load on the other. Event logs stay in Redis for an hour "
        "behind their turn: a shorter soak sees them grow."
    )


def _loads(running: Running, folder: Path, rates: Mapping[str, float], length: float) -> list[subprocess.Popen[bytes]]:
    """Both kinds of requests, each at its rate for so many seconds."""
    started = []
    for name, text, cpu in (("rules", STATIC, SERVER_CPU), ("turns", TURN, LOAD_CPU)):
        command = asking.command(running.port, text, length, rate=rates[name], connections=64, sessions=SESSIONS, cpu=cpu)
        command += ["--thin", str(max(1, int(rates[name] / KEPT))), "--out", str(folder / f"{name}.json")]
        started.append(subprocess.Popen(command))
    return started


def _probe(running: Running, folder: Path, rates: Mapping[str, float]) -> float:
    """The share of its time that the busier core is taken at these rates."""
    loads = _loads(running, folder, rates, PROBE_SECONDS)
    time.sleep(PROBE_SECONDS / 4)
    taken = psutil.cpu_percent(PROBE_SECONDS / 2, percpu=True)
    for load in loads:
        load.wait()
    return max(taken[cpu] for cpu in (SERVER_CPU, LOAD_CPU)) / 100


def _rate(running: Running, text: str, connections: int, cpu: int, seconds: float = CALIBRATION) -> float:
    command = asking.command(running.port, text, seconds, connections=connections, sessions=SESSIONS, cpu=cpu)
    return asking.rate_of(json_of(command)["samples"])


def _kept_up(running: Running, history: int) -> float:
    """Rules a second that were answered and had reached the database, with nothing else going on, until all sessions have so many turns."""
    began, answered = time.monotonic(), 0.0
    while answered < SESSIONS * history:
        answered += CALIBRATION * _rate(running, STATIC, RULES, SERVER_CPU)
    until = time.monotonic() + MOVE_SECONDS
    while int(redis(running.redis_port, "XLEN", JOURNAL)):
        if time.monotonic() > until:
            raise RuntimeError("the journal does not get empty")
        time.sleep(0.05)
    return answered / (time.monotonic() - began)


def _watch(stage: Stage, running: Running, loads: Sequence[subprocess.Popen[bytes]], length: float) -> list[dict[str, float]]:
    """A sample every so often until the loads have ended."""
    began, samples = time.monotonic(), []
    while any(load.poll() is None for load in loads):
        if time.monotonic() - began > length + 120:
            raise RuntimeError("the load does not end")
        samples.append({"at": time.monotonic() - began, **_sample(running)})
        if len(samples) == SAMPLES // 3:
            stage.found.add("keys besides event logs.third", _lasting(running))
        if len(samples) % 10 == 0:
            stage.say(f"{samples[-1]['at']:.0f} of {length:.0f} s")
        time.sleep(max(0.5, length / SAMPLES))
    if any(load.returncode for load in loads):
        raise RuntimeError("a load broke")
    return samples


def _sample(running: Running) -> dict[str, float]:
    found: dict[str, float] = {}
    for role, process in (("lightweight", running.lightweight[0]), ("heavy", running.heavy[0])):
        seen = psutil.Process(process.pid)
        found[f"{role} MB"] = seen.memory_info().rss / 2**20
        found[f"{role} descriptors"] = seen.num_fds()
    found["Redis keys"] = float(redis(running.redis_port, "DBSIZE").split()[-1])
    memory = next(line for line in redis(running.redis_port, "INFO", "memory").splitlines() if line.startswith("used_memory:"))
    found["journal entries"] = float(redis(running.redis_port, "XLEN", JOURNAL))
    found["Redis MB"] = float(memory.partition(":")[2]) / 2**20
    live = dead = size = 0.0
    for _, alive, gone, total in rows(running.database, TABLES):
        live, dead, size = live + float(alive), dead + float(gone), size + float(total)
    each = size / live if live else 0.0
    return {**found, "rows": live, "dead rows": dead, "database MB": size / 2**20, "database, bytes a row with its indexes": each}


def _lasting(running: Running) -> int:
    """Keys in Redis that are no turn's event log."""
    return sum(not name.endswith(EVENT_LOG) for name in redis(running.redis_port, "--scan").splitlines())


def _growth(stage: Stage, samples: Sequence[dict[str, float]]) -> None:
    """A picture of each kind, and how much an hour adds."""
    table: list[list[object]] = [["what", "at first", "a third in", "at the end", "more an hour, behind the first third"]]
    third = len(samples) // 3
    for name in [key for key in samples[0] if key != "at"]:
        late = [(sample["at"], sample[name]) for sample in samples[third:]]
        hourly = slope(late) * 3600
        at_third, at_end = (statistics.median(sample[name] for sample in part) for part in (samples[third:][:AROUND], samples[-AROUND:]))
        table.append([name, samples[0][name], at_third, at_end, hourly])
        stage.found.add(f"{name}.third", at_third)
        stage.found.add(f"{name}.end", at_end)
        stage.found.add(f"{name}.hourly", hourly)
        unit = name.rpartition(" ")[2]
        plot = stage.found.plots.setdefault(unit, Plot(f"Soak: {unit}", "seconds", unit))
        plot.lines[name] = [[sample["at"], sample[name]] for sample in samples]
    stage.found.tables["What grows"] = table


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope of y over x; 0 for a single point."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def _latency(stage: Stage, folder: Path, length: float) -> None:
    for name in ("rules", "turns"):
        samples = json.loads((folder / f"{name}.json").read_text())["samples"]
        good = [(at, ms) for at, ms, status in samples if status == 200]
        stage.found.add(f"{name}.failed", len(samples) - len(good))
        plot = Plot(f"Soak: latency of {name}", "seconds", "ms", log_y=True)
        plot.lines = {f"p{share * 100:g}": over_time(good, share, max(1.0, length / 60)) for share in (0.5, 0.95, 0.99)}
        stage.found.plots[f"latency of {name}"] = plot
        p99 = [value for _, value in plot.lines["p99"]]
        half = len(p99) // 2
        stage.found.add(f"{name}.p99_first_half_ms", statistics.median(p99[: half or 1]))
        stage.found.add(f"{name}.p99_second_half_ms", statistics.median(p99[half:]))
