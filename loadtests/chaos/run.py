"""One run: the split comes up, clients talk while faults strike, everything heals, what can be seen is collected, all is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from common.contracts.webhooks import tenant_secret
from loadtests import resp
from loadtests.chaos.afterwards import Collector, each
from loadtests.chaos.clients import Client, Crowd
from loadtests.chaos.doing import Doing
from loadtests.chaos.hearing import hearing
from loadtests.chaos.history import Evidence, Found, Said, Window, outcome
from loadtests.chaos.plan import plan_faults
from loadtests.chaos.scene import TENANTS, Scene, write_scene
from loadtests.chaos.talking import Talker
from loadtests.members import steady_port
from loadtests.split import Plan, Split, split

LEASE_SECONDS, DRAIN_SECONDS = 3.0, 6.0
REPEATS, OTHER_BODIES = 300, 30
FAULTY = re.compile(r'"exception"|Traceback \(most recent')
CUT = "timeout graceful shutdown exceeded"  # the server says so of a request that still waits at the end of its grace: Nginx asks elsewhere
TIERS = ("lightweight", "heavy", "worker")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `seconds` is the most that the talking may take."""

    seed: int
    turns: int
    faults: int
    clients: int
    seconds: float


@dataclass(slots=True)
class Progress:
    """How far it is; whoever shows it looks from time to time."""

    stage: str = "starting"
    said: int = 0
    ended: int = 0
    faults: int = 0


async def run(options: Options, folder: Path, progress: Progress) -> Evidence:
    """The evidence of a run in `folder`. Raises CannotRun."""
    scene = write_scene(folder / "scene", options.seed)
    environ = {
        "LOADSPLIT_API_KEYS": str(scene.api_keys),
        "LOADSPLIT_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
        "LOADSPLIT_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
        "LOADSPLIT_EGRESS_ALLOW": "127.0.0.1",  # webhooks reach public addresses otherwise
    }
    plan = Plan(scene.config, scene.profile, workers=1, environ=environ)
    evidence = Evidence()
    async with split(folder, plan) as running:
        began = time.monotonic()

        def clock() -> float:
            return round(time.monotonic() - began, 4)

        async with talkers(running, scene, clock) as (talker, local):
            secrets = {tenant: tenant_secret(running.ticket_secret.encode(), tenant) for tenant in TENANTS}
            async with hearing(secrets, steady_port()) as (heard, talker.hook_url):
                await _talk(options, running, talker, clock, evidence, progress)
                progress.stage = "settling"
                await _finish(options.seed, talker, clock, evidence)
                collector = Collector(running, talker, options.seed, local)
                evidence.troubles += await collector.settle(evidence.said)
                await _repeat(options.seed, talker, evidence)
                progress.stage = "collecting"
                await collector.collect(evidence)
            evidence.heard = list(heard.heard.values())
            evidence.troubles += heard.troubles
        progress.stage = "stopping"
        await _stop(running, evidence)
    evidence.left_over += running.left_over()
    evidence.troubles += _logged(running)
    return evidence


@contextlib.asynccontextmanager
async def talkers(running: Split, scene: Scene, clock: Callable[[], float]) -> AsyncIterator[tuple[Talker, Talker]]:
    """Who asks through Nginx, and who asks single processes (by `:port/path`)."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as http:
        headers = {tenant: scene.headers(tenant) for tenant in TENANTS}
        yield Talker(http, running.url, headers, clock), Talker(http, "http://127.0.0.1", {}, clock)


async def _talk(
    options: Options, running: Split, talker: Talker, clock: Callable[[], float], evidence: Evidence, progress: Progress
) -> None:
    """All messages and all faults; then every process is up."""
    counts = {
        group: len(running.of(group)) for group in ("heavy", "lightweight", "worker", "redis", "postgres", "nginx", "llm", "business")
    }
    plan = plan_faults(options.seed, turns=options.turns, faults=options.faults, members=counts, lease_seconds=LEASE_SECONDS)
    doing = Doing(running, plan, clock)
    crowd = Crowd(options.seed, options.turns, options.clients)
    watch = resp.Watch(running.redis_port, clock)
    progress.stage = "talking"
    talking = [asyncio.create_task(Client(n, crowd, talker, doing.room, clock).run()) for n in range(options.clients)]
    faults, watching = asyncio.create_task(doing.run()), asyncio.create_task(watch.run())
    try:
        end = asyncio.get_running_loop().time() + options.seconds
        while not all(task.done() for task in (*talking, faults)):
            progress.said, progress.faults = len(crowd.said), len(doing.done)
            progress.ended = sum(1 for said in crowd.said if said.attempts and said.attempts[-1].final)
            if faults.done() and faults.exception() is not None:
                crowd.stopped = True
                break
            if asyncio.get_running_loop().time() > end:
                crowd.stopped = True
                evidence.troubles.append(f"after {options.seconds:g} s only {len(crowd.said)} of {options.turns} messages were sent")
                break
            await asyncio.sleep(0.2)
        await asyncio.wait([faults], timeout=60)
        if not faults.done():
            faults.cancel()
        await faults
        _, late = await asyncio.wait(talking, timeout=120)
        if late:
            evidence.troubles.append(f"{len(late)} clients did not come to an end")
        for task in set(talking) - late:
            task.result()
    finally:
        for task in (*talking, faults, watching):
            task.cancel()
        await asyncio.gather(*talking, faults, watching, return_exceptions=True)
        evidence.said, evidence.batches = crowd.said, crowd.batches
        evidence.faults = sorted(doing.done, key=lambda fault: fault.number)
        evidence.redis_away = [*doing.redis_away, *(Window(b, e, "slower than 0.25 s") for b, e in watch.away)]
        progress.said, progress.faults = len(crowd.said), len(doing.done)


async def _finish(seed: int, talker: Talker, clock: Callable[[], float], evidence: Evidence) -> None:
    """What is open is asked for once more."""

    async def nothing() -> None:
        return None

    client = Client(0, Crowd(seed, 0, 1), talker, nothing, clock)
    by_marker = {said.marker: said for said in evidence.said}
    taken = [batch for batch in evidence.batches if batch.batch_id is not None and batch.document is None]
    await each(taken, lambda batch: client.finish_batch(batch, by_marker))
    open_ = [said for said in evidence.said if outcome(said).state == "unknown" and (said.key or said.turn_id)]
    await each(open_, client.finish)


async def _repeat(seed: int, talker: Talker, evidence: Evidence) -> None:
    """Requests that had their reply long ago, again: the same reply; and with another body: none."""
    ended = ("answered", "failed", "cancelled")
    keyed = [said for said in evidence.said if said.key is not None and said.mode != "task" and outcome(said).state in ended]
    chance = random.Random(f"repeats of {seed}")

    async def again(said: Said) -> None:
        attempt = await talker.query(said, 30)
        attempt.final = attempt.final or attempt.status is not None

    async def other(said: Said) -> None:
        attempt = await talker.query(replace(said, text="opening hours mk0000000z", attempts=[]), 30)
        what = f"another body under the key of {said.marker}"
        evidence.strangers.append(Found(said.tenant, what, 422, attempt.status or 0, attempt.body))

    await each(chance.sample(keyed, min(REPEATS, len(keyed))), again)
    await each(chance.sample(keyed, min(OTHER_BODIES, len(keyed))), other)


async def _stop(running: Split, evidence: Evidence) -> None:
    """Orderly: whoever does not end in time, or with another code than 0, or leaves a connection open, is noted."""
    codes = await running.stop("nginx") | await running.stop(*TIERS)
    evidence.troubles += [f"{name} ended with {'SIGKILL, too late' if code is None else code}" for name, code in codes.items() if code != 0]
    async with resp.connected(running.redis_port) as redis:
        clients = (await redis.call("CLIENT", "LIST")).decode().splitlines()
        evidence.idle["connections to Redis after the end"] = len(clients) - 1
    backends = await running.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    evidence.idle["connections to PostgreSQL after the end"] = float(backends)
    await running.stop("llm", "business")
    await running.stop("redis", "postgres")


def _logged(running: Split) -> list[str]:
    """Lines of the tiers' logs that tell of something that nobody had foreseen."""
    found = []
    for member in (m for group in TIERS for m in running.of(group)):
        lines = [s for s in member.log.read_text(errors="replace").splitlines() if FAULTY.search(s) and CUT not in s]
        found += [f"{member.name} logged: {line[:2000]}" for line in lines[:3]]
        found += [f"{member.name} logged {len(lines)} such lines"] if len(lines) > 3 else []
    return found
