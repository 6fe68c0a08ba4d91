"""What a load run showed, a row for each kind of request. It knows nothing of Locust: it is told of samples and prints a table."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

STEP = math.log(1.02)


@dataclass
class Samples:
    """Times in milliseconds in buckets of 2 percent, so that a long run takes no more memory than a short one."""

    buckets: Counter[int] = field(default_factory=Counter)
    failures: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many, failed ones included."""
        return self.buckets.total() + self.failures

    def add(self, milliseconds: float) -> None:
        """One that went well."""
        self.buckets[round(math.log(max(milliseconds, 0.01)) / STEP)] += 1

    def fail(self, reason: str) -> None:
        """One that did not; its time is left out of the percentiles."""
        self.failures += 1
        self.reasons[reason[:120]] += 1

    def percentile(self, share: float) -> float | None:
        """The time within which that share (0 to 1) was answered, None without samples."""
        left = math.ceil(self.buckets.total() * share)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return math.exp(bucket * STEP)
        return None


@dataclass
class Summary:
    """All kinds of one run. `requests` are answers, `timings` what was measured inside of them (first token, gaps)."""

    requests: dict[str, Samples] = field(default_factory=dict)
    timings: dict[str, Samples] = field(default_factory=dict)

    def figures(self, seconds: float) -> dict[str, dict[str, float | None]]:
        """Count, failures, rate and percentiles of each kind, timings included."""
        found: dict[str, dict[str, float | None]] = {}
        for kind, samples in {**self.requests, **self.timings}.items():
            times = {f"p{share * 100:g}_ms": samples.percentile(share) for share in (0.5, 0.95, 0.99)}
            rate = samples.count / seconds if seconds > 0 else 0.0
            found[kind] = {"count": samples.count, "failures": samples.failures, "rate": rate, **times}
        return found

    def table(self, seconds: float) -> str:
        """The table of a run that lasted so long."""
        lines = [f"{'kind':<26}{'requests':>10}{'failures':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'req/s':>10}"]
        for kind, samples in sorted(self.requests.items()):
            rate = samples.count / seconds if seconds > 0 else 0.0
            lines.append(f"{kind:<26}{samples.count:>10}{samples.failures:>10}{_times(samples)}{rate:>10.1f}")
        if self.timings:
            lines += ["", f"{'inside the streams':<26}{'samples':>10}{'':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}"]
            lines += [f"{kind:<26}{samples.count:>10}{'':>10}{_times(samples)}" for kind, samples in sorted(self.timings.items())]
        failed = Counter({f"{kind}: {reason}": n for kind, s in self.requests.items() for reason, n in s.reasons.items()})
        if failed:
            lines += ["", "failures", *(f"{n:>8} × {reason}" for reason, n in failed.most_common(10))]
        return "\n".join(lines)


def _times(samples: Samples) -> str:
    values = [samples.percentile(p) for p in (0.5, 0.95, 0.99)]
    return "".join(f"{'-':>10}" if v is None else f"{v:>10.1f}" for v in values)
