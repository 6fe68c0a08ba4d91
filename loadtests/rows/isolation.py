"""Rule latency while LLM turns come at three times what the deployment can do: the split beside the single process beside the seed's
service, each over the same time.

Rules are asked at a fixed rate and timed from when they were due. Each deployment has the two cores: the split gives one to each tier, the
other two keep one for themselves and leave the other one to the load.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadtests import asking
from loadtests.programs import json_of, output_of
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU, Plot, Stage, over_time, percentile
from loadtests.topologies import Topology, flow_api, reference, stand_in_llm, start
from loadtests.workflows import STATIC, TURN, write_workflow

TIMES = 3
CALIBRATION = 3.0
PROBES, PRESSERS = 16, 2_000
SLOW_TURN = f"{TURN}, wait 50"  # milliseconds that its LLM takes
SEED_FLOWS = 100


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 3 * (2 * stage.scale.idle_seconds + stage.scale.pressure_seconds + CALIBRATION + 6)


def measure(stage: Stage) -> None:
    """All three deployments, one after another."""
    scale = stage.scale
    picture = Plot("Rule latency while LLM turns come at three times the capacity", "seconds", "p99 of a rule, ms", log_y=True)
    begin, end = scale.idle_seconds, scale.idle_seconds + scale.pressure_seconds
    picture.spans.append([begin, end, f"LLM turns at {TIMES} × capacity"])
    stage.found.plots["isolation"] = picture
    for name, opened in (("split", _split), ("single", _single), ("seed", _seed)):
        folder = stage.subfolder(name)
        with ExitStack() as stack:
            port, probe_cpu = opened(stack, folder)
            samples = _under_pressure(stage, name, port, probe_cpu, folder)
        picture.lines[_title(name)] = over_time([(at, ms) for at, ms, _ in samples], 0.99, max(0.5, scale.pressure_seconds / 60))
        _figures(stage, name, samples)
    stage.found.note(
        f"{scale.probe_rate:g} rules a second, timed from when they were due; LLM turns whose LLM takes 50 ms, in sessions of their own, "
        f"offered at {TIMES} × the rate that the deployment has just shown with 64 connections that wait for their answers."
    )
    stage.found.note(
        "Split: Nginx, the rule tier, Redis and the probe on one core; heavy, PostgreSQL, the mock LLM and the pressure on the other. "
        "Single process and seed: the server alone on one core, all else on the other."
    )


def _title(name: str) -> str:
    return {"split": "split 1+1", "single": "single process", "seed": "the seed's service"}[name]


def _split(stack: ExitStack, folder: Path) -> tuple[int, int]:
    return start(stack, folder, Topology()).port, SERVER_CPU


def _single(stack: ExitStack, folder: Path) -> tuple[int, int]:
    wanted = Topology(single=True, redis=False, postgres=False)
    return start(stack, folder, wanted).port, LOAD_CPU


def _seed(stack: ExitStack, folder: Path) -> tuple[int, int]:
    config = write_workflow(folder, flow_api(stack, folder), SEED_FLOWS)
    llm = f"http://127.0.0.1:{stand_in_llm(stack, folder)}/v1"
    port, _ = reference(stack, folder, "seed_service", "--config", str(config), "--llm", llm)
    return port, LOAD_CPU


def _under_pressure(stage: Stage, name: str, port: int, cpu: int, folder: Path) -> list[tuple[float, float, int]]:
    """The probe's samples over idle, pressure, idle."""
    scale = stage.scale
    capacity = _capacity(port)
    stage.found.add(f"{name}.capacity", capacity)
    total = 2 * scale.idle_seconds + scale.pressure_seconds
    stage.say(f"{name}: {capacity:.0f} turns/s, now {TIMES} times that for {scale.pressure_seconds:g} s")
    probe = asking.command(port, STATIC, total, rate=scale.probe_rate, connections=PROBES, sessions=50, cpu=cpu)
    probing = subprocess.Popen([*probe, "--out", str(folder / "probe.json")])
    try:
        pressing = asking.command(
            port, SLOW_TURN, scale.pressure_seconds, rate=TIMES * max(1.0, capacity), connections=PRESSERS, cpu=LOAD_CPU
        )
        delayed = [
            "sh",
            "-c",
            'sleep "$0"; exec "$@"',
            str(scale.idle_seconds),
            *pressing,
            "--drop-late",
            "--out",
            str(folder / "press.json"),
        ]
        output_of(delayed)
        if probing.wait(120):
            raise RuntimeError(f"{name}: the probe broke")
    finally:
        if probing.poll() is None:
            probing.kill()
    pressed: dict[str, Any] = json.loads((folder / "press.json").read_text())
    for figure, count in _became(pressed, scale.pressure_seconds, capacity).items():
        stage.found.add(f"{name}.{figure}", count)
    samples: list[tuple[float, float, int]] = [tuple(one) for one in json.loads((folder / "probe.json").read_text())["samples"]]
    return samples


def _became(pressed: dict[str, Any], seconds: float, capacity: float) -> dict[str, float]:
    """What became of the LLM turns under pressure, a second; done are those that ended before it did."""
    statuses = [status for _, _, status in pressed["samples"]]
    done = sum(status == 200 and at + ms / 1000 <= seconds for at, ms, status in pressed["samples"])
    return {
        "pressure.offered": (len(statuses) + pressed["late"]) / seconds,
        "pressure.done": done / seconds,
        "pressure.refused": statuses.count(503) / seconds,
        "pressure.not_sent": pressed["late"] / seconds,
        "pressure.failed": sum(status not in (200, 503, 429) for status in statuses),
        "pressure.goodput": done / seconds / max(1.0, capacity),
    }


def _capacity(port: int) -> float:
    """Turns a second, as fast as connections that wait for their answers allow."""
    command = asking.command(port, SLOW_TURN, CALIBRATION, connections=64, cpu=LOAD_CPU)
    samples = json_of(command)["samples"]
    return float(sum(status == 200 for _, _, status in samples) / CALIBRATION)


def _figures(stage: Stage, name: str, samples: list[tuple[float, float, int]]) -> None:
    """Idle is what was before the pressure: behind it, what has waited is worked off."""
    begin = stage.scale.idle_seconds
    end = begin + stage.scale.pressure_seconds
    idle = [ms for at, ms, _ in samples if at < begin] or [0.0]
    pressed = [ms for at, ms, _ in samples if begin + 0.5 <= at <= end] or [0.0]
    add = stage.found.add
    add(f"{name}.idle_p50_ms", percentile(idle, 0.5))
    add(f"{name}.idle_p99_ms", percentile(idle, 0.99))
    add(f"{name}.pressed_p50_ms", percentile(pressed, 0.5))
    add(f"{name}.pressed_p99_ms", percentile(pressed, 0.99))
    due = int((2 * stage.scale.idle_seconds + stage.scale.pressure_seconds) * stage.scale.probe_rate)
    add(f"{name}.errors", due - sum(status == 200 for _, _, status in samples))
