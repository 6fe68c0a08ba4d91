"""A new version of the workflow file under full load, again and again: how soon every replica of both tiers serves it, and what fails
meanwhile.

A replica serves a version when its answers name its hash: the rule tier in a header, heavy in the reply to a turn of its own.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from common.contracts.query import new_turn_id
from common.contracts.ticket import HEADER, Plan, Ticket, sign
from loadtests import asking
from loadtests.http_once import post
from loadtests.rows.stage import LOAD_CPU, Plot, Stage, percentile
from loadtests.topologies import SECRET, Running, Topology, start
from loadtests.workflows import STATIC, TURN, workflow

RULES = 1000
PATIENCE = 15.0  # seconds within which a replica must have followed at all
PAUSE = 0.02


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 12 + 1.2 * stage.scale.activations


def measure(stage: Stage) -> None:
    """So many versions, one after another. Raises RuntimeError when a replica does not follow."""
    folder, found = stage.folder, stage.found
    with ExitStack() as stack:
        config = folder / "agent.json"
        config.write_text(json.dumps(_version("http://127.0.0.1:9/book", 0)))
        running = start(stack, folder, Topology(lightweight=2, heavy=2, config=config).unpinned())
        load = [_load(folder, running, name, text) for name, text in (("rules", STATIC), ("turns", TURN))]
        try:
            times = [_activated(running, config, number) for number in range(1, stage.scale.activations + 1)]
        finally:
            for process in load:
                process.terminate()
                process.wait(60)
    found.add("all_replicas_s", max(times))
    found.add("all_replicas_p50_s", percentile(times, 0.5))
    found.add("activations", len(times))
    samples = [one for name in ("rules", "turns") for one in json.loads((folder / f"{name}.out").read_text())["samples"]]
    found.add("requests", len(samples))
    found.add("failed", sum(status != 200 for _, _, status in samples))
    points = [[number, value] for number, value in enumerate(times, 1)]
    found.plots["activations"] = Plot("Until all replicas serve a new version", "activation", "seconds", {"all four": points})
    found.note(
        f"Split 2+2 behind Nginx, {RULES} rules, rules and LLM turns at full load all the time, nothing pinned. The workflow "
        "file is replaced; time counts until the last of the four replicas names the new version in an answer."
    )


def _version(api: str, number: int) -> dict[str, object]:
    document = workflow(api, RULES)
    document["flows"][0]["response_template"] = f"Answer of version {number}."
    return document


def _load(folder: Path, running: Running, name: str, text: str) -> subprocess.Popen[bytes]:
    """Asks until it is told to end, then writes what became of its requests."""
    command = asking.command(running.port, text, 3600, connections=4, cpu=LOAD_CPU)
    return subprocess.Popen([*command, "--out", str(folder / f"{name}.out")])


def _activated(running: Running, config: Path, number: int) -> float:
    """Seconds until every replica serves another version than before."""
    before = {name: _serves(running, name) for name in _replicas(running)}
    draft = config.with_suffix(".new")
    draft.write_text(json.dumps(_version("http://127.0.0.1:9/book", number)))
    draft.replace(config)
    began = time.monotonic()
    waiting = set(before)
    while waiting:
        waiting = {name for name in waiting if _serves(running, name) == before[name]}
        if waiting and time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"version {number} is not served by {', '.join(f'{role} {n + 1}' for role, n in sorted(waiting))}")
        time.sleep(PAUSE if waiting else 0)
    return time.monotonic() - began


def _replicas(running: Running) -> list[tuple[str, int]]:
    return [(role, n) for role in ("lightweight", "heavy") for n in range(len(getattr(running, f"{role}_ports")))]


def _serves(running: Running, replica: tuple[str, int]) -> str:
    """The hash of the version that a replica answers with."""
    role, number = replica
    session = f"look-{time.time_ns()}"
    if role == "lightweight":
        status, headers, _ = post(running.lightweight_ports[number], "/api/v1/query", {"message": STATIC, "session_id": session})
        return headers.get("x-loadsplit-config", f"status {status}")
    ticket = sign(Ticket("default", "bench", session, new_turn_id(), "", Plan("skill", "orders", "order")), SECRET.encode())
    status, _, body = post(running.heavy_ports[number], "/api/v1/query", {"message": TURN, "session_id": session}, {HEADER: ticket})
    if status != 200:
        raise RuntimeError(f"heavy {number + 1} answers {status}: {body[:200]!r}")
    return str(json.loads(body)["config_hash"])
