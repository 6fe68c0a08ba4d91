"""What is said of a metric: kind, sentence, labels, unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Unit by the end of the name, the first that fits.
_UNITS = {
    "_seconds": "seconds",
    "_oldest_due": "seconds",
    "_bytes": "bytes",
    "_usd_total": "US dollars",
    "_tokens_total": "tokens",
    "_token_usage": "tokens",
    "_ratio": "ratio",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the catalogue. `buckets` are only for histograms, in the metric's unit."""

    kind: Literal["counter", "gauge", "histogram"]
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def unit_of(name: str) -> str:
    """In what a metric counts; a plain number of things where its name says no more."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "count")
