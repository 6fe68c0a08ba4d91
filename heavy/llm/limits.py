"""Requests and tokens a minute of a target, held by all replicas together: set aside before a call, put right after it.

The buckets are in the hot store. Without one, or while it is away, each process holds the limits by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import Draw, HotStore, HotStoreUnavailable
from heavy.llm.types import Target

MINUTE = 60.0
FOREVER = float("inf")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was taken for one call, and from which store. `wait` is the seconds until the call may begin."""

    draws: tuple[Draw, ...]
    store: HotStore
    wait: float


class Limits:
    """The buckets of all targets. `pending` settlements are carried on beside the calls; `aclose` waits for them."""

    def __init__(self, shared: HotStore | None = None) -> None:
        self._own = MemoryHotStore()
        self._shared = shared
        self._digests: dict[Target, str] = {}
        self._pending: set[asyncio.Task[None]] = set()

    async def reserve(self, target: Target, tokens: int, patience: float) -> Reservation | float:
        """Takes a request and so many tokens, to be used within `patience` seconds; else the seconds until there would be enough, and
        nothing is taken. A bucket holds what a minute brings, as the providers' own do."""
        draws = self._draws(target, tokens)
        for store in (self._shared, self._own):
            if store is None:
                continue
            try:
                wait = await store.draw(draws, patience)
            except HotStoreUnavailable:
                continue
            return Reservation(draws, store, wait) if wait <= patience else wait
        return 0.0

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Puts the tokens right: `tokens` is what the call has used."""
        draws = [replace(d, amount=tokens - d.amount) for d in reservation.draws if d.key.endswith(":t")]
        self._later(reservation.store, [d for d in draws if d.amount])

    def give_back(self, reservation: Reservation) -> None:
        """The call was not made."""
        self._later(reservation.store, [replace(d, amount=-d.amount) for d in reservation.draws])

    async def aclose(self) -> None:
        """Waits for what is still to be put right."""
        while self._pending:
            await asyncio.gather(*self._pending)
        await self._own.aclose()

    def _draws(self, target: Target, tokens: int) -> tuple[Draw, ...]:
        digest = self._digests.get(target)
        if digest is None:
            digest = self._digests[target] = hashlib.sha256("\n".join(map(str, target.account)).encode()).hexdigest()[:24]
        limits: Mapping[str, tuple[int | None, int]] = {"r": (target.rpm, 1), "t": (target.tpm, tokens)}
        return tuple(
            Draw(keys.llm_bucket(digest, what), amount, limit / MINUTE, limit)
            for what, (limit, amount) in limits.items()
            if limit is not None
        )

    def _later(self, store: HotStore, draws: list[Draw]) -> None:
        if draws:
            task = asyncio.create_task(_put_right(store, draws))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)


def limited(target: Target) -> bool:
    """Whether a target has limits that are counted in a store."""
    return target.rpm is not None or target.tpm is not None


async def _put_right(store: HotStore, draws: list[Draw]) -> None:
    try:
        await store.draw(draws, FOREVER)
    except HotStoreUnavailable:
        log.warning("an LLM target's tokens could not be put right: the hot store is away; its bucket fills by itself")
