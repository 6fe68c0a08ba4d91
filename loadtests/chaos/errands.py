"""Messages that nobody waits for: tasks and batches. They are submitted, asked for until they have ended, at times recalled."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from loadtests.chaos.history import TASK_ENDS, Attempt, Batch, Said
from loadtests.chaos.talking import Talker, asked

PATIENCE = 60.0  # seconds for which an end is waited for while the run goes on; a task may be tried three times
WAIT = 30.0
RECALLED = 0.1


class Errands:
    """The tasks of one client."""

    def __init__(self, talker: Talker, chance: random.Random, clock: Callable[[], float]) -> None:
        self._talker, self._chance, self._clock = talker, chance, clock

    async def task(self, said: Said) -> None:
        """Submits one message as a task and waits for its end."""
        said.hook = self._chance.random() < 0.5
        end = self._clock() + PATIENCE
        while said.task_id is None and self._clock() < end:
            attempt = await self._talker.submit(said, WAIT)
            if attempt.final or (said.task_id is None and said.key is None):
                return
            if said.task_id is None:
                await asyncio.sleep(self._chance.uniform(0.1, 1))
        if said.task_id is not None and self._chance.random() < RECALLED:
            await asyncio.sleep(self._chance.uniform(0, 0.5))
            said.recalled = True
            await self._talker.call(said.tenant, "DELETE", f"/api/v1/task/{said.task_id}")
        await self.task_end(said, PATIENCE)

    async def task_end(self, said: Said, seconds: float) -> None:
        """Asks for the task until it has ended, or the time is over."""
        end = self._clock() + seconds
        while said.task_id is not None and self._clock() < end:
            began = self._clock()
            status, document = await self._talker.call(said.tenant, "GET", f"/api/v1/task/{said.task_id}")
            if status == 200 and document["status"] in TASK_ENDS:
                said.attempts.append(Attempt("task", began, self._clock(), 200, body=document, final=True))
                return
            await asyncio.sleep(self._chance.uniform(0.1, 0.6))

    async def batch(self, batch: Batch, items: list[Said | None]) -> None:
        """Submits messages in one request, None being a broken one, and waits until all have ended."""
        bodies: list[dict[str, Any]] = [{"session_id": "broken", "message": ""} if said is None else asked(said) for said in items]
        end = self._clock() + PATIENCE
        while batch.batch_id is None and self._clock() < end:
            attempt = await self._talker.submit_batch(batch, bodies, WAIT)
            if attempt.final or (batch.batch_id is None and batch.key is None):
                return
            if batch.batch_id is None:
                await asyncio.sleep(self._chance.uniform(0.1, 1))
        await self.batch_end(batch, items, PATIENCE)

    async def batch_end(self, batch: Batch, items: list[Said | None], seconds: float) -> None:
        """Asks for the batch until it is finished, then for its results."""
        end, path = self._clock() + seconds, f"/api/v1/batch/{batch.batch_id}"
        while batch.batch_id is not None and self._clock() < end:
            began = self._clock()
            status, document = await self._talker.call(batch.tenant, "GET", path)
            if status == 200 and document["status"] == "finished":
                status, text = await self._talker.call(batch.tenant, "GET", f"{path}/results", raw=True)
                lines = [json.loads(line) for line in text.splitlines()] if status == 200 else []
                if len(lines) == len(items):
                    batch.document, batch.lines = document, lines
                    self._told(items, lines, began)
                    return
            await asyncio.sleep(self._chance.uniform(0.2, 0.8))

    def _told(self, items: list[Said | None], lines: list[dict[str, Any]], began: float) -> None:
        """Each message learns its end from its line."""
        for said, line in zip(items, lines, strict=True):
            if said is not None:
                said.task_id = said.turn_id = line["task_id"]
                said.attempts.append(Attempt("task", began, self._clock(), 200, body=line, final=True))
