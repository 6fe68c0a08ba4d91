"""A limit on what is under way at once that finds its own height between two numbers: it falls when answers become slow, and rises again by
itself. It does not know what slow is.
"""

from __future__ import annotations

from collections.abc import Callable

FALL, RISE = 0.7, 0.1  # of what was under way; of the highest


class AdaptiveLimit:
    """`now` lies between `least` and `most`, and begins at `most`. `told` hears of every new value. With `least` at or above `most`
    nothing ever changes."""

    __slots__ = ("_least", "_most", "_told", "now")

    def __init__(self, most: int, least: int | None = None, told: Callable[[float], None] | None = None) -> None:
        self._most = most
        self._least = most if least is None else min(least, most)
        self._told = told
        self.now = most
        self._tell()

    def fall(self, under_way: int, factor: float = FALL) -> None:
        """So many at once were too many. Few are never too many: then it is not their number that makes answers slow."""
        self.now = max(self._least, min(self.now, round(under_way * factor)))
        self._tell()

    def rise(self) -> None:
        """All is well with as many as there were."""
        if self.now < self._most:
            self.now = min(self._most, self.now + max(1, round(self._most * RISE)))
            self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self.now)
