"""A place at a target for one call: a slot, and what it takes from the limits. Who cannot have one in time is refused at once.

It knows no provider and makes no call.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.errors import LoadsplitError, Overloaded, RateLimited
from heavy.llm.choice import Choice
from heavy.llm.legs import Ask
from heavy.llm.limits import Limits, Reservation, limited
from heavy.llm.standing import Standing, Standings
from heavy.llm.types import Target

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

# How long a call takes where none has ended yet, for the guess how long a queue is.
UNKNOWN_SECONDS = 1.0


@dataclass(slots=True)
class Place:
    """A place at a target. Exactly one of `end` and `release` gives it back."""

    target: Target
    standing: Standing
    limits: Limits
    reservation: Reservation | None
    tokens: int
    probe: bool

    def end(self, used: int | None) -> None:
        """The call has ended and has used so many tokens; None when that is not known."""
        self._free()
        if self.reservation is not None and used is not None:
            self.limits.settle(self.reservation, used)

    def release(self) -> None:
        """The call was not made."""
        self._free()
        self.standing.health.undecided(self.probe)
        if self.reservation is not None:
            self.limits.give_back(self.reservation)

    def _free(self) -> None:
        self.standing.outstanding -= self.tokens
        self.standing.slots.free()


@dataclass(frozen=True, slots=True)
class _Wait:
    """Why a target cannot take a call now, and for how many seconds."""

    target: Target
    seconds: float
    why: Literal["pause", "max_concurrency", "rate"]


class Admission:
    """Gives places at targets."""

    def __init__(self, standings: Standings, limits: Limits, metrics: Metrics | None = None) -> None:
        self._standings = standings
        self._limits = limits
        self._metrics = metrics

    async def place(self, choice: Choice, ask: Ask, patience: float) -> Place | None:
        """The first target of the choice that can take the call now, else the one that can soonest, after waiting for it; None when there
        is none left to try. Raises RateLimited or Overloaded, with `retry_after`, when none can within `patience` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while True:
            now = loop.time()
            soonest: _Wait | None = None
            for target in choice.order(now):
                got = await self._now(target, ask, now)
                if isinstance(got, Place):
                    return got
                self._count(target, got.why)
                if soonest is None or got.seconds < soonest.seconds:
                    soonest = got
            if soonest is None:
                return None
            if now + soonest.seconds > until:
                raise _refusal(soonest, ask)
            place = await self._soon(soonest, ask, until)
            if place is not None:
                return place

    async def _now(self, target: Target, ask: Ask, now: float) -> Place | _Wait:
        standing = self._standings.of(target)
        if standing.paused_until > now:
            return _Wait(target, standing.paused_until - now, "pause")
        if not standing.slots.take():
            return _Wait(target, standing.slots.expected(standing.seconds or UNKNOWN_SECONDS), "max_concurrency")
        got = await self._reserve(target, standing, ask, 0.0)
        return got if isinstance(got, Place) else _Wait(target, got, "rate")

    async def _soon(self, wait: _Wait, ask: Ask, until: float) -> Place | None:
        """Waits for what a target lacks. None when somebody else was quicker: look again."""
        loop = asyncio.get_running_loop()
        standing = self._standings.of(wait.target)
        if wait.why == "pause":
            await asyncio.sleep(wait.seconds)
            return None
        if not standing.slots.take() and not await standing.slots.wait(until - loop.time()):
            return None
        got = await self._reserve(wait.target, standing, ask, max(0.0, until - loop.time()))
        return got if isinstance(got, Place) else None

    async def _reserve(self, target: Target, standing: Standing, ask: Ask, patience: float) -> Place | float:
        """With a slot in hand: takes from the limits and waits for its turn, or gives the slot back and says how long it would take."""
        tokens = ask.tokens + (ask.most_output or target.max_tokens)
        reservation: Reservation | None = None
        placed = False
        try:
            if limited(target):
                got = await self._limits.reserve(target, tokens, patience)
                if not isinstance(got, Reservation):
                    return got
                reservation = got
                if reservation.wait > 0:
                    await asyncio.sleep(reservation.wait)
            placed = True
        finally:
            if not placed:  # refused, or the caller has gone
                standing.slots.free()
                if reservation is not None:
                    self._limits.give_back(reservation)
        standing.outstanding += tokens
        probe = standing.health.begin(asyncio.get_running_loop().time())
        return Place(target, standing, self._limits, reservation, tokens, probe)

    def _count(self, target: Target, why: str) -> None:
        if self._metrics is not None:
            self._metrics.llm_held_back_total.labels(target.name, why).inc()


def _refusal(wait: _Wait, ask: Ask) -> LoadsplitError:
    if wait.why == "max_concurrency":
        return Overloaded(f"every LLM target of {ask.alias!r} has as many calls as it may have", retry_after=wait.seconds)
    why = "is at its limit of requests or tokens a minute" if wait.why == "rate" else "has asked for a pause"
    return RateLimited(f"every LLM target of {ask.alias!r} {why}", retry_after=wait.seconds)
