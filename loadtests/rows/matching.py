"""Matching alone, in a process of its own on a core: mean and p99 on unseen messages for each number of rules, compile time, memory."""

from __future__ import annotations

import sys

from loadtests.programs import json_of
from loadtests.rows.stage import SERVER_CPU, Plot, Stage


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return stage.scale.rounds * sum(0.4 + rules / 5_000 for rules in stage.scale.matched)


def measure(stage: Stage) -> None:
    """Each number of rules, round after round."""
    command = ["taskset", "-c", str(SERVER_CPU), sys.executable, "-m", "standalone.commands.matching_speed"]
    if stage.messages is not None:
        command += ["--messages", str(stage.messages)]
    curves: dict[str, list[list[float]]] = {"mean": [], "p99": []}
    for rules in stage.scale.matched:
        for _ in range(stage.scale.rounds):
            figures = json_of([*command, "--rules", str(rules)])
            for name in ("mean_us", "p50_us", "p99_us", "compile_s", "memory_mb"):
                stage.found.add(f"{rules}.{name}", figures[name])
        for name, line in curves.items():
            line.append([rules, sorted(stage.found.figures[f"{rules}.{name}_us"])[stage.scale.rounds // 2]])
        stage.say(f"{rules} rules")
    what = f"{stage.messages.name}, half of it for the rules" if stage.messages else "made messages"
    stage.found.note(f"One match a message, folding included, half of the rules with `.*`; {what}, the other half matched once each.")
    stage.found.plots["matching"] = Plot("Matching on unseen messages", "rules", "µs a message", dict(curves), log_x=True, log_y=True)
