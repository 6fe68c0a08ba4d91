"""Deployments side by side, on whatever cores there are: the single process and splits of several sizes, with each kind of stores."""

from __future__ import annotations

from contextlib import ExitStack

from loadtests import asking, wrk
from loadtests.programs import json_of
from loadtests.rows.stage import Plot, Stage
from loadtests.topologies import Topology, start
from loadtests.turns_bench import resident
from loadtests.workflows import FLOW, STATIC, TURN
from loadtests.wrk import Asked

ALL = (
    Topology(single=True, redis=False, postgres=False),
    Topology(single=True),
    Topology(postgres=False),
    Topology(),
    Topology(lightweight=2),
    Topology(heavy=2),
)
TURNS_AT_ONCE = 16


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return len(_wanted(stage)) * (8 + 3 * max(1, stage.scale.seconds))


def measure(stage: Stage) -> None:
    """Each in turn: rules, rules with a call, LLM turns."""
    rows: list[list[object]] = [["deployment", "rules/s", "rules with a call/s", "LLM turns/s", "memory of the tiers, MB"]]
    for number, wanted in enumerate(_wanted(stage)):
        rates = _rates(stage, wanted, number)
        rows.append([wanted.name(), *rates])
        for name, value in zip(("rules", "flows", "turns", "rss_mb"), rates, strict=True):
            stage.found.add(f"{wanted.name()}.{name}", value)
        stage.say(wanted.name())
    stage.found.tables["Deployments"] = rows
    bars: list[list[object]] = [[row[0], row[3]] for row in rows[1:]]
    stage.found.plots["turns"] = Plot("LLM turns of a deployment", "", "turns a second", {"turns/s": bars}, bars=True)
    stage.found.note(
        "One run each, nothing pinned: load generators, stores and stand-ins take their part of the same cores, so these figures "
        "compare the deployments and are no ceilings. Splits are asked through Nginx."
    )


def _wanted(stage: Stage) -> tuple[Topology, ...]:
    """All of them, or of a short scale the smallest alone."""
    return ALL if stage.scale.rounds > 1 else ALL[:1]


def _rates(stage: Stage, wanted: Topology, number: int) -> list[float]:
    folder, scale = stage.subfolder(str(number)), stage.scale
    with ExitStack() as stack:
        running = start(stack, folder, wanted.unpinned())
        rates = [
            wrk.run(running.query, Asked([text], sessions=100), folder, scale.seconds, scale.connections, 0)[0] for text in (STATIC, FLOW)
        ]
        command = asking.command(running.port, TURN, max(1.0, scale.seconds), connections=TURNS_AT_ONCE, cpu=None)
        turns = asking.rate_of(json_of(command)["samples"])
        tiers = {process.pid for process in (*running.lightweight, *running.heavy)}
        return [*rates, turns, sum(map(resident, tiers)) / 1024]
