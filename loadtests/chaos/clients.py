"""The clients: each says one thing after another, in sessions of its own and in shared ones, in every mode, as carefully as the API asks.

What has an Idempotency-Key is repeated until there is a definite reply; a stream is read on where it broke; everything else is said once.
What has no end when the run is over is asked for once more when all is well (`finish`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from loadtests.chaos import scene
from loadtests.chaos.errands import Errands
from loadtests.chaos.history import Attempt, Batch, Said
from loadtests.chaos.talking import DROPPED, Talker

BATCHED = {"rule": 25, "effect": 25, "plain": 25, "skill": 25}
PATIENCE = 45.0  # seconds for which a message is pursued while the run goes on
WAIT = 30.0
ENOUGH = 5
KEYED = 0.6
KINDS = {"rule": 24, "effect": 20, "plain": 18, "slow": 4, "skill": 16, "once": 4, "talk": 7}
MODES = {"query": 35, "stream": 27, "drop": 19, "twice": 7, "task": 9, "batch": 3}
MANNERS = (
    {"enqueue": 70, "reject": 10, "interrupt": 10, "merge": 10},
    {"enqueue": 25, "merge": 75},
    {"enqueue": 60, "interrupt": 40},
)
GENERATION = 400  # messages after which other sessions are shared


@dataclass(slots=True)
class Crowd:
    """What all clients share: how many messages are left, what was said, also in batches, and how many keys each tenant has used."""

    seed: int
    turns: int
    clients: int
    said: list[Said] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    stopped: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        self._numbers = iter(range(1, self.turns + 1))

    def number(self) -> int | None:
        """The number of the next message, None when the run is over."""
        return None if self.stopped else next(self._numbers, None)

    def key(self, tenant: str) -> str:
        """A tenant's next key. Both tenants use the same ones, for different things."""
        self.keys[tenant] = self.keys.get(tenant, 0) + 1
        return f"order {self.keys[tenant]}"


class Client:
    """One of them. `room` is awaited before each message."""

    def __init__(self, number: int, crowd: Crowd, talker: Talker, room: Callable[[], Awaitable[None]], clock: Callable[[], float]) -> None:
        self.number = number
        self.tenant = scene.TENANTS[number % len(scene.TENANTS)]
        self._crowd, self._talker, self._room, self._clock = crowd, talker, room, clock
        self._chance = random.Random(f"client {number} of {crowd.seed}")
        self._own, self._left = 0, 0
        self._errands = Errands(talker, self._chance, clock)

    async def run(self) -> None:
        """Until there is nothing more to say."""
        while (number := self._crowd.number()) is not None:
            kind = self._pick(KINDS)
            if kind != "talk":
                await self._say(number, kind, self._session(number))
                continue
            session = self._session(number, shared=0.15)
            await self._say(number, kind, session)
            for kind in [*["more"] * self._chance.randrange(3), "settle"]:
                if (number := self._crowd.number()) is None:
                    return
                await self._say(number, kind, session)

    async def finish_batch(self, batch: Batch, by_marker: Mapping[str, Said], seconds: float = 2 * WAIT) -> None:
        """The end of a batch that was taken."""
        items = [None if marker is None else by_marker[marker] for marker in batch.markers]
        await self._errands.batch_end(batch, items, seconds)

    async def finish(self, said: Said, seconds: float = WAIT) -> None:
        """Once more, when all is well: what has a key is repeated, a turn that has a name is asked for."""
        end = self._clock() + seconds
        readers = [a.reader for a in said.attempts if a.events] or [0]
        if said.task_id is not None:
            await self._errands.task_end(said, 2 * seconds)
            return
        while self._clock() < end:
            if said.turn_id is not None:
                attempt = await self._resume(said, readers[-1], None)
            elif said.key is not None:
                attempt = await self._talker.query(said, WAIT)
                attempt.final = attempt.final or attempt.status is not None
            else:
                return
            if attempt.final or attempt.status == 404:
                return
            await asyncio.sleep(0.5)

    async def _say(self, number: int, kind: str, session: str) -> None:
        await self._room()
        mode = self._pick(MODES)
        said = self._made(number, kind, session, mode)
        if mode == "batch":
            await self._batch(said)
            return
        if mode == "twice" or self._chance.random() < KEYED:
            said.key = self._crowd.key(self.tenant)
        if mode == "query":
            await self._query(said)
        elif mode == "twice":
            await asyncio.gather(self._query(said), self._chance.choice((self._query, self._stream))(said))
        elif mode == "task":
            await self._errands.task(said)
        else:
            await self._stream(said)

    def _made(self, number: int, kind: str, session: str, mode: str) -> Said:
        manners = MANNERS[random.Random(session).randrange(len(MANNERS))] if session.startswith("shared") else MANNERS[0]
        said = Said(
            marker=scene.marker(number),
            client=self.number,
            tenant=self.tenant,
            session=session,
            kind=kind,
            mode=mode,
            on_busy=self._pick(manners),
            key=None,
            text=scene.message(kind, number),
            sent=self._clock(),
        )
        self._crowd.said.append(said)
        return said

    async def _batch(self, first: Said) -> None:
        """Some messages in one request, one of them broken now and then."""
        items: list[Said | None] = [first]
        for _ in range(self._chance.randint(1, 5)):
            if (number := self._crowd.number()) is not None:
                await self._room()
                items.append(self._made(number, self._pick(BATCHED), self._session(number), "batch"))
        if self._chance.random() < 0.3:
            items.insert(self._chance.randrange(len(items) + 1), None)
        key = self._crowd.key(self.tenant) if self._chance.random() < KEYED else None
        markers = [None if said is None else said.marker for said in items]
        batch = Batch(self.number, self.tenant, key, markers, hook=self._chance.random() < 0.5)
        for said in filter(None, items):
            said.hook = batch.hook
        self._crowd.batches.append(batch)
        await self._errands.batch(batch, items)

    def _session(self, number: int, shared: float = 0.4) -> str:
        if self._chance.random() < shared:
            return f"shared-{number // GENERATION}-{self._chance.randrange(max(1, self._crowd.clients // 5))}"
        if self._left == 0:
            self._own, self._left = self._own + 1, self._chance.randint(3, 12)
        self._left -= 1
        return f"own-{self.number // len(scene.TENANTS)}-{self._own}"  # two clients of different tenants each: the same names

    async def _query(self, said: Said) -> None:
        for seconds in self._tries(said):
            attempt = await self._talker.query(said, seconds)
            if attempt.final:
                return
            if attempt.status == 503 and attempt.body and "turn_id" in attempt.body:  # it was accepted and goes on elsewhere
                said.turn_id = attempt.body["turn_id"]
                await self._read_on(said, 0, [])
                return
            if said.key is None:
                return
            await self._pause(len(said.attempts))

    async def _stream(self, said: Said) -> None:
        drops = [self._chance.randint(1, 6) for _ in range(self._chance.randint(1, 3))] if said.mode == "drop" else []
        for reader, seconds in enumerate(self._tries(said), 1):
            attempt = await self._talker.stream(said, reader, seconds, drops.pop() if drops else None)
            if attempt.final or await self._holds(said, attempt):
                return
            again = said.key is not None and self._chance.random() < 0.2  # the same request streams along, from the first event on
            if said.turn_id is not None and attempt.status == 200 and not again:
                await self._read_on(said, reader, drops, attempt)
                return
            if said.key is None:
                return
            await self._pause(len(said.attempts))

    async def _read_on(self, said: Said, reader: int, drops: list[int], attempt: Attempt | None = None) -> None:
        """Resumes until the end, always behind the last event that has come. A rule's answer that is not recorded has no stream."""
        end, missed = self._clock() + PATIENCE, 0
        while self._clock() < end:
            if attempt is not None:
                await (asyncio.sleep(self._chance.uniform(0, 2)) if attempt.broken == DROPPED else self._pause(3))
            attempt = await self._resume(said, reader, drops.pop() if drops else None)
            missed = missed + 1 if attempt.status == 404 else 0
            if attempt.final or missed == ENOUGH:
                return

    async def _resume(self, said: Said, reader: int, drop_after: int | None) -> Attempt:
        before = [a for a in said.attempts if a.events and a.reader == reader]
        after = before[-1].events[-1][0] if before else 0
        attempt = await self._talker.resume(said, reader, after, WAIT, drop_after)
        await self._holds(said, attempt)
        attempt.final = attempt.final and attempt.status != 404
        return attempt

    async def _holds(self, said: Said, attempt: Attempt) -> bool:
        """Whether an `error` event is the turn's end. Where it is only this node's word, it is taken back: the turn goes on elsewhere."""
        if not attempt.events or attempt.events[-1][1] != "error":
            return False
        for _ in range(40):
            status, document = await self._talker.call(said.tenant, "GET", f"/api/v1/turns/{said.turn_id}")
            if status == 200:
                attempt.final = document["state"] == "failed"
                break
            await asyncio.sleep(0.5)
        if not attempt.final:
            attempt.body = attempt.events.pop()[2]
            attempt.broken = "an error of this node, not of the turn"
        return attempt.final

    def _tries(self, said: Said) -> Iterator[float]:
        """The time-outs of the attempts: some clients are impatient at first."""
        end = self._clock() + PATIENCE
        yield self._chance.uniform(0.2, 3) if said.key is not None and self._chance.random() < 0.15 else WAIT
        while self._clock() < end:
            yield WAIT

    async def _pause(self, tries: int) -> None:
        await asyncio.sleep(min(2.0, 0.05 * 2**tries) * self._chance.uniform(0.5, 1.5))

    def _pick(self, weights: dict[str, int]) -> str:
        return self._chance.choices(list(weights), list(weights.values()))[0]
