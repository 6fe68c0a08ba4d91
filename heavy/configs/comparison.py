"""How two versions of an agent do, from the turns that are stored, and whether the canary does so badly that it has to go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heavy.configs.stores import TurnFigures

WINDOW_SECONDS = 3600.0
MOST_TURNS = 5000
MIN_TURNS = 10
RISE, FACTOR = 0.05, 2.0
Z = 1.96
RULE = (
    f"A canary is taken back when it has at least {MIN_TURNS} ended turns and the lower end of the 95 % Wilson interval of its error rate "
    f"is above {FACTOR:g} times the active version's error rate, and above that rate plus {RISE * 100:g} percentage points. An error is a "
    f"turn that failed, or in which an action chosen by a rule could not answer. The last {MOST_TURNS} turns of each version count, of the "
    f"canary's life, at most of the last hour."
)


@dataclass(frozen=True, slots=True)
class Figures:
    """How a version did. Seconds are those from a turn's acceptance to its commit: 0 where a rule answered."""

    turns: int = 0
    failed: int = 0
    escalated: int = 0
    error_rate: float = 0.0
    llm_share: float = 0.0
    p50_seconds: float = 0.0
    p95_seconds: float = 0.0
    cost_usd: float = 0.0
    cost_usd_per_turn: float = 0.0

    @property
    def errors(self) -> int:
        """Turns that went wrong."""
        return self.failed + self.escalated

    def as_dict(self) -> dict[str, Any]:
        """As the API tells it."""
        return {**asdict(self), "errors": self.errors}


def summed(turns: Sequence[TurnFigures]) -> Figures:
    """The figures of some turns."""
    if not turns:
        return Figures()
    count, seconds = len(turns), sorted(t.seconds for t in turns)
    failed, escalated = sum(t.failed for t in turns), sum(t.escalated and not t.failed for t in turns)
    cost = sum(t.cost_usd for t in turns)
    return Figures(
        turns=count,
        failed=failed,
        escalated=escalated,
        error_rate=(failed + escalated) / count,
        llm_share=sum(t.llm_calls > 0 for t in turns) / count,
        p50_seconds=_quantile(seconds, 0.5),
        p95_seconds=_quantile(seconds, 0.95),
        cost_usd=cost,
        cost_usd_per_turn=cost / count,
    )


def complaint(active: Figures, canary: Figures) -> str | None:
    """Why the canary has to go, None while it may stay. See `RULE`."""
    if canary.turns < MIN_TURNS:
        return None
    least, bar = lowest(canary.errors, canary.turns), max(FACTOR * active.error_rate, active.error_rate + RISE)
    if least <= bar:
        return None
    return (
        f"{canary.errors} of its {canary.turns} turns went wrong ({canary.error_rate:.1%}; {canary.failed} failed, in {canary.escalated} "
        f"an action could not answer), against {active.errors} of {active.turns} ({active.error_rate:.1%}) of the active version"
    )


def lowest(errors: int, turns: int) -> float:
    """The lower end of the Wilson score interval (E. B. Wilson, 1927) of a rate."""
    rate, square = errors / turns, Z * Z
    middle = rate + square / (2 * turns)
    width = Z * math.sqrt(rate * (1 - rate) / turns + square / (4 * turns * turns))
    return max(0.0, (middle - width) / (1 + square / turns))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
