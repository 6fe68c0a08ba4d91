"""LLM turns, the relay of a stream and the memory of open ones, on PostgreSQL with durable commits, beside the bare SDK: turns_bench."""

from __future__ import annotations

import argparse
import os

import uvloop

from loadtests import turns_bench
from loadtests.rows.stage import LOAD_CPU, Stage


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 10 + stage.scale.rounds * (8 * stage.scale.seconds + 3) + stage.scale.memory_streams / 50


def measure(stage: Stage) -> None:
    """The rows of turns_bench as figures."""
    scale, found = stage.scale, stage.found
    options = argparse.Namespace(
        rounds=scale.rounds, seconds=scale.seconds, connections=scale.connections, streams=scale.memory_streams
    )  # fmt: skip
    with turns_bench.servers(stage.folder) as started:
        found.add("heavy.rss_mb", turns_bench.resident(started.pid) / 1024)
        os.sched_setaffinity(0, {LOAD_CPU})
        rows = uvloop.run(turns_bench.measure(started, options))
    names = {
        "turn_1": "turn, 1 connection",
        "turns": "turns, many connections",
        "relay": "relay",
        "first_delta": "first delta",
        "sdk_1": "SDK call, 1 connection",
        "sdk": "SDK calls, many connections",
        "sdk_relay": "SDK stream",
        "sdk_first_delta": "SDK first delta",
    }
    for name, row in names.items():
        for one in rows[row]:
            found.add(f"{name}.p50_ms", one["p50_ms"])
            found.add(f"{name}.rate", one["calls"] / one["seconds"])
            if one["cpu_seconds"]:
                found.add(f"{name}.per_cpu_second", one["calls"] / one["cpu_seconds"])
                found.add(f"{name}.deltas_per_cpu_second", one["deltas"] / one["cpu_seconds"])
    found.add("stream.kb", *rows["KB an open stream"])
    found.note(
        "Heavy alone on one core, asked as the rule tier asks it; PostgreSQL with durable commits, Redis, the mock LLM and the load on the "
        "other. Rates `per_cpu_second` count the server's own CPU time. The SDK runs on the server's core, without a server around it."
    )
