"""How many tries beyond the first an alias may have, so that a provider that is down does not get its load multiplied."""

from __future__ import annotations

SPARE = 10.0  # tries that an alias has in any case; so many come back in a minute
MINUTE = 60.0


class RetryBudget:
    """Each call adds `share` of a try, each retry or fail-over takes one. Times are the event loop's, in seconds."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._left = SPARE
        self._at = 0.0

    def asked(self) -> None:
        """A call has come."""
        self._left = min(self._left + self.share, SPARE)

    def take(self, now: float) -> bool:
        """Takes a try if there is one."""
        if self._at:
            self._left = min(SPARE, self._left + (now - self._at) * SPARE / MINUTE)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
