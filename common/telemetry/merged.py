"""One /metrics page out of those of several processes that serve one port: counters and histograms are added, those of processes that have
ended too, so that none goes backwards; gauges are put together as each one's meaning asks. It knows pages, no processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import fmean

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

Join = Callable[[Iterable[float]], float]

# Gauges of the catalogue, without their prefix. Those that each process counts for itself are added; what all of them say of the same thing
# is said once, and of those that differ for a moment the one that an operator must know of.
GAUGES: Mapping[str, Join] = {
    "requests_inflight": sum,
    "breaker_open": max,
    "turns_inflight": sum,
    "heavy_inflight_ratio": fmean,
    "llm_target_out": max,
    "ledger_waiting": sum,
    "journal_size": max,
    "tasks_waiting": max,
    "tasks_running": max,
    "tasks_oldest_due": max,
    "access_revision": min,
    "config_revision": min,
    "config_refused": max,
    "database_rows": max,
    "database_bytes": max,
    "hotstore_keys": max,
    "hotstore_bytes": max,
    "webhooks_pending": max,
    "admission_limit": sum,
    "admission_waiting": sum,
    "workers": sum,
}
_OF_PROCESSES: Mapping[str, Join] = {"process_start_time_seconds": min, "python_info": max}
_ONLY_GROW = frozenset({"counter", "histogram", "summary"})
_CREATED = "_created"


class Page:
    """The families of one page, or of several that were put together."""

    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    @classmethod
    def read(cls, text: str) -> Page:
        """What a process rendered."""
        return cls({family.name: family for family in text_string_to_metric_families(text)})

    @classmethod
    def together(cls, pages: Iterable[Page]) -> Page:
        """One page out of several."""
        found: dict[str, list[Metric]] = {}
        for page in pages:
            for name, family in page._families.items():
                found.setdefault(name, []).append(family)
        return cls({name: _joined(families) for name, families in found.items()})

    def what_stays(self) -> Page:
        """What still counts when the process has ended: all but its gauges."""
        return Page({n: f for n, f in self._families.items() if f.type in _ONLY_GROW or n.endswith(_CREATED)})

    def render(self) -> bytes:
        """The page as /metrics gives it."""
        return generate_latest(self)  # it asks for nothing but `collect`

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client's renderer asks for."""
        yield from self._families.values()


def _joined(families: list[Metric]) -> Metric:
    first = families[0]
    if len(families) == 1:
        return first
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for family in families:
        for sample in family.samples:
            values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    join = sum if first.type in _ONLY_GROW else _join_of(first.name)
    joined = Metric(first.name, first.documentation, first.type)
    for (name, labels), each in values.items():
        joined.add_sample(name, dict(labels), join(each))
    return joined


def _join_of(name: str) -> Join:
    if name.endswith(_CREATED):
        return min
    return GAUGES.get(name.removeprefix("loadsplit_")) or _OF_PROCESSES.get(name, sum)
