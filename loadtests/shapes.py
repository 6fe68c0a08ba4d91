"""How the number of users changes over a run: ramp, spike, soak. It knows no Locust; loadtests/locust_shape.py gives it to Locust. Arrivals
of a file are replayed by loadtests/replay.py instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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


def users_at(name: str, peak: int, seconds: float, at: float) -> int | None:
    """How many users there are after so many seconds, at least one; None behind the end."""
    if at >= seconds:
        return None
    return max(1, math.ceil(SHAPES[name](at / seconds) * peak))
