"""Legs of a call over a plain list: the targets of an alias in their order, those of the wanted protocol, each once.

To be replaced by the gateway's own, which knows limits, health and money.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from common.contracts.query import Usage
from common.errors import DeadlineExceeded, DependencyUnavailable
from heavy.llm.legs import Ask, Leg
from heavy.llm.prices import cost, prices_of
from heavy.llm.types import LLMCallFailed, Target

MIN_CALL_SECONDS = 0.5


class PlainLeg:
    """One target's turn. `error` is how it ended, if it failed."""

    def __init__(self, target: Target, timeout: float | None) -> None:
        self.target = target
        self.timeout = timeout
        self.error: LLMCallFailed | None = None

    def told(self, headers: Mapping[str, str]) -> None:
        """Nothing is made of it."""

    def first_token(self) -> None:
        """Nothing is measured."""

    def done(self, usage: Usage) -> None:
        """Sets usage.cost_usd."""
        usage.cost_usd = cost(usage, prices_of(self.target))

    def failed(self, error: LLMCallFailed) -> None:
        """Keeps the failure: it decides whether another target has its turn."""
        self.error = error

    def left(self, usage: Usage | None = None, *, estimated: bool = False) -> None:
        """Nothing is counted."""


class PlainLegs:
    """What the relay needs of a gateway, over a mapping of aliases."""

    def __init__(self, targets: Mapping[str, tuple[Target, ...]]) -> None:
        self._targets = targets

    def catalogue(self) -> Mapping[str, tuple[Target, ...]]:
        """All aliases with their targets."""
        return self._targets

    async def legs(self, ask: Ask) -> AsyncGenerator[Leg, None]:
        """The alias's targets of the wanted protocol, each once."""
        loop = asyncio.get_running_loop()
        deadline = None if ask.timeout is None else loop.time() + ask.timeout
        error: LLMCallFailed | None = None
        for target in self._targets.get(ask.alias, ()):
            if ask.provider not in (None, target.provider):
                continue
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left < MIN_CALL_SECONDS:
                raise DeadlineExceeded("the time for this request is over before the LLM could answer") from error
            leg = PlainLeg(target, left)
            yield leg
            error = leg.error
            if error is None or error.after_first_token or error.kind == "invalid_request":
                break
        if error is not None and error.kind == "timeout" and deadline is not None and deadline - loop.time() < MIN_CALL_SECONDS:
            raise DeadlineExceeded("the LLM did not answer within the time for this request") from error
        if error is not None:
            raise error
        raise DependencyUnavailable("no LLM is configured under this alias")
