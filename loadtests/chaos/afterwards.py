"""After the run: everything is up, what is open is given time to end, then all that can be seen from outside is collected.

It judges nothing. What it asks goes through Nginx with the tenants' keys, but for metrics and stores.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from loadtests import resp
from loadtests.chaos.history import Effect, Evidence, Found, Replay, Said, Session, outcome
from loadtests.chaos.scene import TENANTS
from loadtests.chaos.talking import Talker
from loadtests.split import Split

SETTLE_SECONDS = 90.0
AT_ONCE = 16
PAGE = 500
REPLAYS, STRANGERS = 600, 30
IN_FLIGHT = re.compile(r"^loadsplit_(turns_inflight|requests_inflight(?:\{[^}]*\})?) ([0-9.e+-]+)$", re.MULTILINE)

T = TypeVar("T")
R = TypeVar("R")


async def each(things: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """`work` on every thing, some at a time; the results in order."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> R:
        async with slots:
            return await work(thing)

    return list(await asyncio.gather(*map(one, things)))


class Collector:
    """Looks at a split that is at rest."""

    def __init__(self, split: Split, talker: Talker, seed: int, simulators: Talker) -> None:
        self._split, self._talker, self._simulators = split, talker, simulators
        self._chance = random.Random(f"samples of {seed}")

    async def settle(self, said: Sequence[Said]) -> list[str]:
        """Waits until nothing goes on any more; what still does when the time is over, in words."""
        places = sorted({(s.tenant, s.session) for s in said})
        end = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while True:
            busy = await self._busy(places)
            if not busy or asyncio.get_running_loop().time() > end:
                return busy
            await asyncio.sleep(0.5)

    async def _busy(self, places: Sequence[tuple[str, str]]) -> list[str]:
        documents = await each(places, lambda place: self._talker.call(place[0], "GET", f"/api/v1/session/{place[1]}"))
        busy = [
            f"session {place} is {document['workflow_state']['status'] if status == 200 else status}"
            for place, (status, document) in zip(places, documents, strict=True)
            if not (status == 404 or (status == 200 and document["workflow_state"]["status"] != "processing"))
        ]
        for tenant in TENANTS:
            status, page = await self._talker.call(tenant, "GET", "/api/v1/webhooks/deliveries?status=pending&limit=500")
            if status != 200 or page["deliveries"]:
                busy.append(f"messages to webhooks of {tenant}: {len(page['deliveries']) if status == 200 else status}")
        async with resp.connected(self._split.redis_port) as redis:
            if size := await redis.call("XLEN", "ls:journal"):
                busy.append(f"{size} entries in the journal")
        return busy

    async def collect(self, evidence: Evidence) -> None:
        """Fills in what can be seen while everything is up."""
        places = sorted({(s.tenant, s.session) for s in evidence.said})
        evidence.sessions = [session for session in await each(places, self._session) if session is not None]
        turns = {(session.tenant, str(m["turn_id"])) for session in evidence.sessions for m in session.messages}
        turns |= {(s.tenant, turn_id) for s in evidence.said if (turn_id := outcome(s).turn_id)}
        evidence.turns = {
            place: document
            for place, (status, document) in zip(sorted(turns), await each(sorted(turns), self._turn), strict=True)
            if status == 200
        }
        tasks = sorted({(s.tenant, s.task_id) for s in evidence.said if s.task_id})
        documents = await each(tasks, lambda place: self._talker.call(place[0], "GET", f"/api/v1/task/{place[1]}"))
        evidence.tasks = {place: task for place, (status, task) in zip(tasks, documents, strict=True) if status == 200}
        evidence.effects = await self._effects()
        told = [(s.tenant, s.turn_id) for s in evidence.said if s.turn_id and any(a.events for a in s.attempts)]
        evidence.replays = await each(self._sample(told, REPLAYS), self._replay)
        evidence.strangers += await self._strangers(evidence)
        evidence.redis_keys = await resp.keys_for_ever(self._split.redis_port)
        evidence.idle = await self._idle()

    async def _session(self, place: tuple[str, str]) -> Session | None:
        tenant, session_id = place
        messages: list[dict[str, Any]] = []
        before = ""
        while True:
            path = f"/api/v1/session/{session_id}?include=messages&limit={PAGE}{before}"
            status, document = await self._talker.call(tenant, "GET", path)
            if status != 200:
                return None
            messages = [*document.pop("messages"), *messages]
            if document["before"] is None:
                last = document["last_event_id"]
                events = await self._talker.session_events(tenant, session_id, last) if last else []
                return Session(tenant, session_id, document, messages, events)
            before = f"&before={document['before']}"

    async def _turn(self, place: tuple[str, str]) -> tuple[int, Any]:
        return await self._talker.call(place[0], "GET", f"/api/v1/turns/{place[1]}")

    async def _effects(self) -> list[Effect]:
        found: list[Effect] = []
        after: int | None = 0
        while after is not None:
            _, page = await self._simulators.call("", "GET", f":{self._split.business_port}/effects/list?limit=10000&after={after}")
            for effect in page["effects"]:
                body = effect["body"] or {}
                found.append(Effect(effect["number"], effect["path"], effect["key"], body.get("subject", ""), body.get("details", "")))
            after = page["next"]
        return found

    async def _replay(self, place: tuple[str, str]) -> Replay:
        tenant, turn_id = place
        said = Said("", 0, tenant, "", "", "", "", None, "", 0.0, turn_id=turn_id)
        attempt = await self._talker.resume(said, 0, 0, 20)
        return Replay(tenant, turn_id, attempt.status or 0, attempt.events)

    async def _strangers(self, evidence: Evidence) -> list[Found]:
        """What one tenant is told of the other's sessions and turns."""
        of = {tenant: {s.session_id for s in evidence.sessions if s.tenant == tenant} for tenant in TENANTS}
        asks: list[tuple[str, str, str]] = []
        for mine, other in (TENANTS, TENANTS[::-1]):
            sessions = self._sample(sorted(of[mine] - of[other]), STRANGERS)
            asks += [(other, "GET", f"/api/v1/session/{name}?include=messages") for name in sessions]
            asks += [(other, "DELETE", f"/api/v1/session/{name}") for name in sessions[:5]]
            turns = self._sample(sorted(turn_id for tenant, turn_id in evidence.turns if tenant == mine), STRANGERS)
            asks += [(other, "GET", f"/api/v1/turns/{turn_id}{door}") for turn_id in turns for door in ("", "/stream")]
            asks += [(other, "POST", f"/api/v1/turns/{turn_id}/cancel") for turn_id in turns]
            tasks = self._sample(sorted(task_id for tenant, task_id in evidence.tasks if tenant == mine), STRANGERS)
            asks += [(other, method, f"/api/v1/task/{task_id}") for task_id in tasks for method in ("GET", "DELETE")]
            batches = [b.batch_id for b in evidence.batches if b.tenant == mine and b.batch_id][:STRANGERS]
            asks += [(other, "GET", f"/api/v1/batch/{batch_id}{door}") for batch_id in batches for door in ("", "/results")]
        asks += [(tenant, "GET", "/api/v1/turns/t_" + "0" * 32) for tenant in TENANTS]

        async def ask(asked: tuple[str, str, str]) -> Found:
            status, body = await self._talker.call(*asked)
            return Found(asked[0], f"{asked[1]} {asked[2]}", 404, status, body)

        return await each(asks, ask)

    async def _idle(self) -> dict[str, float]:
        """Figures that must be zero now, by where they were read."""
        figures: dict[str, float] = {}
        for name in self._split.ports:
            _, page = await self._simulators.call("", "GET", f":{self._split.ports[name]}/metrics")
            for metric, value in IN_FLIGHT.findall(str(page)):
                asking = 1 if metric.startswith("requests") else 0  # the request that reads it
                figures[f"{name} {metric}"] = max(0.0, float(value) - asking)
        _, stats = await self._simulators.call("", "GET", f":{self._split.llm_port}/stats")
        return figures | {"llm open": stats["open"], "llm refused": stats["refused"]}

    def _sample(self, things: Sequence[T], most: int) -> list[T]:
        return list(things) if len(things) <= most else self._chance.sample(list(things), most)
