"""A model asked directly at heavy's door, beside the same call without anything between and by the bare SDK: gateway_bench."""

from __future__ import annotations

import argparse
import os
import resource
from typing import Any

import uvloop

from loadtests import gateway_bench
from loadtests.rows.stage import LOAD_CPU, Stage


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    scale, doors = stage.scale, 3 if stage.litellm else 2
    return 8 + doors * (4 * scale.rounds * scale.seconds + 8) + 3 * scale.rounds * (scale.seconds + 0.7)


def measure(stage: Stage) -> None:
    """Each door in turn."""
    scale = stage.scale
    options = argparse.Namespace(rounds=scale.rounds, seconds=scale.seconds, streams=scale.crowd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.sched_setaffinity(0, {LOAD_CPU})
    with gateway_bench.mock_llm(stage.folder) as mock:
        direct = gateway_bench.Door("directly", mock, "/v1/chat/completions", "bench")
        _keep(stage, "direct", uvloop.run(gateway_bench.measure(direct, options)))
        _keep(stage, "sdk", gateway_bench.sdk(mock, options))
        with gateway_bench.loadsplit(stage.folder, mock) as door:
            _keep(stage, "gateway", uvloop.run(gateway_bench.measure(door, options)))
        if stage.litellm is not None:
            with gateway_bench.litellm(stage.folder, mock, stage.litellm) as door:
                _keep(stage, "litellm", uvloop.run(gateway_bench.measure(door, options)))
        else:
            stage.found.note("The LiteLLM proxy was not measured: no virtual environment that has it was named (--litellm).")
    stage.found.note("One heavy process with its stores in itself on one core; the mock LLM and the load on the other.")


def _keep(stage: Stage, name: str, rows: dict[str, Any]) -> None:
    add = stage.found.add
    for row, kind in (("calls 1", "call_1"), ("calls 32", "calls"), ("first delta", "first_delta"), ("deltas", "deltas")):
        for one in rows[row]:
            add(f"{name}.{kind}.p50_ms", one["p50_ms"])
            if row != "deltas":
                add(f"{name}.{kind}.rate", one["calls"] / one["seconds"])
            if one["cpu_seconds"]:
                add(f"{name}.{kind}.per_cpu_second", (one["deltas"] if row == "deltas" else one["calls"]) / one["cpu_seconds"])
    for one in rows.get("crowd", []):
        for figure in ("stalls", "gap_p99_ms", "gap_max_ms", "rss_mb"):
            add(f"{name}.crowd.{figure}", one[figure])
        add(f"{name}.crowd.rate", one["deltas"] / one["seconds"])
    if rows.get("idle_mb"):
        add(f"{name}.rss_mb", rows["idle_mb"])
    stage.say(name)
