"""How the number of users changes over a Locust run: ramp, spike, soak. Arrivals of a file are replayed by loadtests/replay.py instead."""

from __future__ import annotations

import math
from collections.abc import Callable

from locust import LoadTestShape

CALM, BUSY = 0.2, (0.4, 0.6)  # of the peak; of the time, during which a spike lasts
RISE = 0.05  # of the time, in which a soak comes to its number


def ramp(part: float) -> float:
    """From nothing to all, evenly."""
    return part


def spike(part: float) -> float:
    """A few, then all at once for a fifth of the time, then a few again."""
    return 1.0 if BUSY[0] <= part < BUSY[1] else CALM


def soak(part: float) -> float:
    """All of them, from soon after the beginning to the end."""
    return min(1.0, part / RISE)


SHAPES: dict[str, Callable[[float], float]] = {"ramp": ramp, "spike": spike, "soak": soak}


class Shaped(LoadTestShape):
    """A shape with its peak of users and its length in seconds."""

    def __init__(self, name: str, peak: int, seconds: float) -> None:
        super().__init__()
        self._share, self._peak, self._seconds = SHAPES[name], peak, seconds

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second to get there), None at the end. Locust asks once a second."""
        at = self.get_run_time()
        if at >= self._seconds:
            return None
        users = max(1, math.ceil(self._share(at / self._seconds) * self._peak))
        return users, float(max(self._peak, 1))
