"""A split without Nginx for tests that hurt its parts: one lightweight process that proxies to the first of two heavy replicas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.support.client import Client
from tests.support.running import Running, role


class Split:
    """The processes. `client` talks to the rule tier."""

    def __init__(self, lightweight: Running, heavy: list[Running]) -> None:
        self.lightweight, self.heavy = lightweight, heavy
        self.client = lightweight.client

    def logs(self) -> str:
        """What all of them wrote."""
        return "".join(r.log() for r in (self.lightweight, *self.heavy))


@contextmanager
def split_of(config: Path, folder: Path, env: Mapping[str, str], replicas: int = 2) -> Iterator[Split]:
    """Starts a split over a workflow file or a directory of them. A dead replica's turns are taken over after three seconds."""
    env = {"LOADSPLIT_LEASE_SECONDS": "3", **env}
    with ExitStack() as stack:
        heavy = [role("heavy", config, folder, env) for _ in range(replicas)]
        lightweight = role("lightweight", config, folder, {**env, "LOADSPLIT_HEAVY_URL": heavy[0].url})
        with ThreadPoolExecutor() as pool:  # side by side: importing an SDK takes each of them a second
            list(pool.map(stack.enter_context, [*heavy, lightweight]))
        yield Split(lightweight, heavy)


def metric(client: Client, name: str, **labels: str) -> float:
    """The sum of a metric over all children that have these labels; 0 where there is none."""
    total = 0.0
    for line in client.call("GET", "/metrics").body.decode().splitlines():
        found = re.fullmatch(rf"loadsplit_{name}(?:\{{(.*)\}})? ([0-9.e+-]+)", line)
        if found and all(f'{k}="{v}"' in (found[1] or "") for k, v in labels.items()):
            total += float(found[2])
    return total


def resident(running: Running) -> int:
    """Resident memory of a process and its children, in bytes."""
    process = psutil.Process(running.process.pid)
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
