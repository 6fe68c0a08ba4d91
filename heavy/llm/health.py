"""Whether a target is worth a call: one that keeps failing is left alone for a while, then tried with a single call.

It knows no target and no clock of its own: times are the event loop's, in seconds.
"""

from __future__ import annotations

from collections import deque

# The share of failures among the last calls that puts a target out, and how many calls it takes to judge.
SHARE, JUDGED, REMEMBERED = 0.5, 10, 20
FIRST_SECONDS, MOST_SECONDS = 5.0, 300.0
# Nobody waits for ever for the verdict of a probe.
PROBE_SECONDS = 120.0


class Health:
    """The outcomes of one target's calls, and what follows from them. `eject_after` 0 keeps it in whatever happens."""

    def __init__(self, eject_after: int) -> None:
        self.eject_after = eject_after
        self.back_at = 0.0  # when it may be tried again; 0 while it is in
        self._row = 0
        self._last: deque[bool] = deque(maxlen=REMEMBERED)
        self._seconds = 0.0  # how long it was out the last time
        self._in_since = 0.0
        self._probe_until = 0.0

    @property
    def out(self) -> bool:
        """Whether it is out, or has not yet shown that it is back."""
        return self.back_at > 0

    def admits(self, now: float) -> bool:
        """Whether a call may go to it: it is in, or its time is over and nobody else is trying it."""
        return not self.back_at or (now >= self.back_at and now >= self._probe_until)

    def begin(self, now: float) -> bool:
        """A call goes to it. Whether that call is the probe, whose end decides."""
        probe = self.back_at > 0 and now >= self.back_at and now >= self._probe_until
        if probe:
            self._probe_until = now + PROBE_SECONDS
        return probe

    def succeeded(self, now: float) -> None:
        """A call has gone well."""
        self._row = 0
        self._last.append(True)
        if self.back_at:
            self.back_at = self._probe_until = 0.0
            self._in_since = now
            self._last.clear()

    def failed(self, now: float, probe: bool) -> None:
        """A call has failed in a way that says something about the target."""
        self._row += 1
        self._last.append(False)
        if probe:
            self._probe_until = 0.0
            self._eject(now)
        elif not self.back_at and self._is_outlier():
            self._eject(now)

    def undecided(self, probe: bool) -> None:
        """A call has ended without saying anything about the target."""
        if probe:
            self._probe_until = 0.0

    def _is_outlier(self) -> bool:
        if not self.eject_after:
            return False
        bad = self._last.count(False)
        return self._row >= self.eject_after or (len(self._last) >= JUDGED and bad >= SHARE * len(self._last))

    def _eject(self, now: float) -> None:
        """Out, twice as long as the last time; unless it was in for as long as that in between."""
        again = self.back_at > 0 or now - self._in_since < self._seconds
        self._seconds = min(MOST_SECONDS, self._seconds * 2) if self._seconds and again else FIRST_SECONDS
        self.back_at = now + self._seconds
        self._row = 0
        self._last.clear()
