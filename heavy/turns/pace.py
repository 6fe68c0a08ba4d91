"""How long turns take to say their first word, beside what the same kind of turn takes usually: what the limit of a node follows.

The length of a stream says nothing of load, so it is not looked at. Kinds are compared with themselves only, since an agent that thinks
for ten seconds is not slower than one that looks an order up, and a node may serve both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from common.web.adaptive import AdaptiveLimit

Kind = tuple[str, str, bool]  # agent, kind of action, whether it is streamed (else the first word comes with the last)

WINDOW_SECONDS = 1.0
MIN_TURNS = 10  # fewer in a window say nothing: it stays open
TOLERANCE = 2.0  # so many times the usual is still well
SLOW_SECONDS = 0.25  # what is quicker than that is well, whatever is usual
HARDEST = 0.5  # the most that one window takes off
# The usual time follows a quicker one at once by a tenth, a slower one by a twentieth in a window: so long a new slowness counts as load.
QUICKER, SLOWER = 0.1, 1.05
MAX_KINDS = 10_000


class FirstWord:
    """The wait for a turn's first word, since the monotonic time `began`."""

    __slots__ = ("_agent_id", "_began", "_pace", "_streamed")

    def __init__(self, pace: Pace, agent_id: str, streamed: bool, began: float) -> None:
        self._pace, self._agent_id, self._streamed = pace, agent_id, streamed
        self._began = began

    def heard(self, kind: str) -> None:
        """It is said; of which kind its action is. To be called once."""
        self._pace.first_word((self._agent_id, kind, self._streamed), time.monotonic() - self._began)

    def given_up(self) -> None:
        """The turn's time was over before it had said anything."""
        self._pace.silent(self._agent_id, self._streamed, time.monotonic() - self._began)


class Pace:
    """Judges a window of first words after the other. `under_way` tells how many turns there are now."""

    def __init__(self, limit: AdaptiveLimit, under_way: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._under_way = under_way
        self._clock = clock
        self._usual: dict[Kind, float] = {}
        self._seen: dict[Kind, list[float]] = {}
        self._ratios: list[float] = []
        self._most = 0
        self._opened = clock()

    def first_word(self, kind: Kind, seconds: float) -> None:
        """A turn has said its first word after so many seconds of its own."""
        usual = self._usual.get(kind)
        if usual is None:
            if len(self._usual) >= MAX_KINDS:
                return
            usual = self._usual[kind] = seconds
        elif seconds < usual:
            usual = self._usual[kind] = usual + QUICKER * (seconds - usual)
        self._seen.setdefault(kind, []).append(seconds)
        self._count(seconds, usual)

    def silent(self, agent_id: str, streamed: bool, seconds: float) -> None:
        """A turn of that agent was given up after so many seconds without a word."""
        known = [usual for kind, usual in self._usual.items() if (kind[0], kind[2]) == (agent_id, streamed)]
        if known:
            self._count(seconds, max(known))

    def _count(self, seconds: float, usual: float) -> None:
        self._ratios.append(seconds / usual if seconds > SLOW_SECONDS and usual > 0 else 1.0)
        self._most = max(self._most, self._under_way())
        now = self._clock()
        if now - self._opened >= WINDOW_SECONDS and len(self._ratios) >= MIN_TURNS:
            self._judge(now)

    def _judge(self, now: float) -> None:
        ratio = statistics.median(self._ratios)
        if ratio > TOLERANCE:
            self._limit.fall(self._most, max(HARDEST, TOLERANCE / ratio))
        else:
            self._limit.rise()
        for kind, seconds in self._seen.items():
            self._usual[kind] = max(self._usual[kind], min(statistics.median(seconds), self._usual[kind] * SLOWER))
        self._seen.clear()
        self._ratios.clear()
        self._most, self._opened = 0, now
