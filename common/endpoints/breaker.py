"""What keeps a failing API from being hammered: a circuit breaker and a retry budget, one of each for an endpoint.

Both are plain state machines over a clock; they know nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]
BUCKETS = 10


@dataclass(slots=True)
class Breaker:
    """Opens when at least `min_calls` were made in the last `window` seconds and `error_rate` of them failed. After `open_seconds` one
    probe is let through: its success closes it, its failure opens it for twice as long, up to `max_open_seconds`.
    """

    window: float = 20.0
    min_calls: int = 20
    error_rate: float = 0.5
    open_seconds: float = 2.0
    max_open_seconds: float = 30.0
    clock: Clock = time.monotonic
    _buckets: list[list[int]] = field(default_factory=lambda: [[-1, 0, 0] for _ in range(BUCKETS)])
    _open_until: float | None = None
    _open_for: float = 0.0
    _probe_until: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are held back (half-open counts as open)."""
        return self._open_until is not None

    @property
    def retry_after(self) -> float:
        """Seconds until the next probe."""
        return max(0.0, (self._open_until or 0.0) - self.clock())

    def allow(self) -> bool:
        """Whether a call may be made now. In the half-open state one caller gets True, until it reports or its probe grows old."""
        if self._open_until is None:
            return True
        now = self.clock()
        if now < self._open_until or now < self._probe_until:
            return False
        self._probe_until = now + self.window  # a probe whose caller vanished must not hold the breaker for ever
        return True

    def success(self) -> None:
        """A call went well."""
        if self._open_until is not None:
            if not self._probe_until:
                return  # it began before the opening: no news
            self._open_until, self._open_for, self._probe_until = None, 0.0, 0.0
            self._buckets = [[-1, 0, 0] for _ in range(BUCKETS)]
        self._count(failed=False)

    def failure(self) -> None:
        """A call failed in a way that speaks of the API's health."""
        if self._open_until is not None:
            if self._probe_until:  # the probe's own verdict; calls from before the opening change nothing
                self._open(min(self._open_for * 2, self.max_open_seconds))
            return
        self._count(failed=True)
        oldest = self._tick() - BUCKETS
        calls = sum(b[1] for b in self._buckets if b[0] > oldest)
        errors = sum(b[2] for b in self._buckets if b[0] > oldest)
        if calls >= self.min_calls and errors >= calls * self.error_rate:
            self._open(self.open_seconds)

    def release(self) -> None:
        """A call ended without a verdict (it was cancelled, or never sent): the next one may probe."""
        self._probe_until = 0.0

    def _open(self, seconds: float) -> None:
        self._open_for, self._probe_until = seconds, 0.0
        self._open_until = self.clock() + seconds

    def _tick(self) -> int:
        return int(self.clock() / (self.window / BUCKETS))

    def _count(self, *, failed: bool) -> None:
        tick = self._tick()
        bucket = self._buckets[tick % BUCKETS]
        if bucket[0] != tick:
            bucket[:] = [tick, 0, 0]
        bucket[1] += 1
        bucket[2] += failed


@dataclass(slots=True)
class RetryBudget:
    """Retries may be at most `ratio` of the requests, besides the first one; unused ones are kept up to `cap`."""

    ratio: float = 0.2
    cap: float = 10.0
    _tokens: float = 1.0

    def request(self) -> None:
        """A request (not a retry) is made."""
        self._tokens = min(self.cap, self._tokens + self.ratio)

    def take(self) -> bool:
        """Whether a retry may be made; it is spent then."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
