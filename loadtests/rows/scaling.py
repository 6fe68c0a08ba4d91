"""More replicas of one tier while the other stays: each replica has its share of a core, and the throughput is that behind Nginx.

All replicas run from the start; Nginx knows the first so many of them. The last one's throughput over that of one, by their number, is the
efficiency.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from loadtests import asking, wrk
from loadtests.programs import json_of
from loadtests.quota import limited
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU, Plot, Stage
from loadtests.topologies import Running, Topology, nginx_front, start
from loadtests.workflows import STATIC, TURN
from loadtests.wrk import Asked

SHARE = 0.08  # of a core for each replica: eight of them leave room on their core
TURNS_AT_ONCE = 10  # for each replica


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    points = len(stage.scale.replicas)
    return 2 * (10 + 1.2 * max(stage.scale.replicas) + points * (_rounds(stage) + 1) * (_seconds(stage) + 0.3))


def measure(stage: Stage) -> None:
    """The rule tier first, then the LLM tier."""
    most = max(stage.scale.replicas)
    plot = Plot("Throughput by replicas, each with its share of a core", "replicas", "times that of one replica")
    stage.found.plots["replicas"] = plot
    plot.lines["linear"] = [[n, n] for n in stage.scale.replicas]
    plain = Topology(front=False, rule_cpu=SERVER_CPU, heavy_cpu=SERVER_CPU, redis_cpu=LOAD_CPU)
    rules = replace(plain, lightweight=most, heavy=1, heavy_cpu=LOAD_CPU)
    turns = replace(plain, lightweight=1, heavy=most, rule_cpu=LOAD_CPU)
    for tier, wanted, rate in (("lightweight", rules, _rules), ("heavy", turns, _turns)):
        plot.lines[tier] = _curve(stage, tier, wanted, rate)
    stage.found.note(
        f"Each replica of the tier that grows has {SHARE:.0%} of one core; all of them share that core, and the other tier, Nginx, the "
        "stores, the stand-ins and the load have the other one. A share is small so that the other core is never the limit."
    )


def _rounds(stage: Stage) -> int:
    return min(3, stage.scale.rounds)


def _seconds(stage: Stage) -> float:
    return max(1.0, 1.5 * stage.scale.seconds)


def _curve(stage: Stage, tier: str, wanted: Topology, rate: Callable[[Stage, Running, int, int, Path], float]) -> list[list[float]]:
    """[replicas, times the throughput of one] for each number of replicas."""
    folder, found = stage.subfolder(tier), stage.found
    with ExitStack() as stack:
        running = start(stack, folder, wanted)
        processes, ports = getattr(running, tier), getattr(running, f"{tier}_ports")
        how = stack.enter_context(limited([process.pid for process in processes], SHARE))
        found.note(f"The share is held by {how}.")
        for replicas in stage.scale.replicas:
            with ExitStack() as front:
                chosen = {"lightweight": running.lightweight_ports, "heavy": running.heavy_ports, tier: ports[:replicas]}
                port = nginx_front(front, folder, chosen["lightweight"], chosen["heavy"], LOAD_CPU)
                rate(stage, running, port, replicas, folder)
                for _ in range(_rounds(stage)):
                    found.add(f"{tier}.{replicas}.rate", rate(stage, running, port, replicas, folder))
            stage.say(f"{tier}: {replicas}")
    rates = {n: statistics.median(found.figures[f"{tier}.{n}.rate"]) for n in stage.scale.replicas}
    first, last = min(rates), max(rates)
    found.add(f"{tier}.efficiency", rates[last] / rates[first] / (last / first))
    return [[n, value / rates[first] * first] for n, value in rates.items()]


def _rules(stage: Stage, running: Running, port: int, replicas: int, folder: Path) -> float:
    url, asked = f"http://127.0.0.1:{port}/api/v1/query", Asked([STATIC], sessions=1000)
    return wrk.run(url, asked, folder, _seconds(stage), 8 * replicas, LOAD_CPU)[0]


def _turns(stage: Stage, running: Running, port: int, replicas: int, folder: Path) -> float:
    command = asking.command(port, TURN, _seconds(stage) + 1, connections=TURNS_AT_ONCE * replicas, cpu=LOAD_CPU)
    return asking.rate_of(json_of(command)["samples"])
