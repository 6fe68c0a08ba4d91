"""Every metric: name, labels, unit and what it says, in one catalogue. A `Metrics` is made once a process and passed around.

Label values are bounded (128 values a label, then `other`), so that no input can grow the registry without end. No module state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from common.telemetry.genai import GENAI
from common.telemetry.specs import Spec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_LABEL_VALUES = 128
OTHER = "other"

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_CALL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


# The exported name is `loadsplit_` and the key; counters' keys end in _total, times in _seconds.
CATALOGUE: dict[str, Spec] = {
    "requests_total": Spec("counter", "Requests answered, by tier, kind of route and HTTP status.", ("tier", "route_kind", "status")),
    "request_seconds": Spec("histogram", "Seconds from the request to the end of its reply.", ("tier",), _FAST),
    "requests_inflight": Spec("gauge", "Requests under way now.", ("tier",)),
    "event_loop_lag_seconds": Spec("histogram", "Seconds by which the event loop was late, four samples a second.", ("tier",), _FAST),
    "rule_hits_total": Spec("counter", "Messages that a rule answered or routed, by agent and action.", ("agent", "action")),
    "learned_hits_total": Spec("counter", "Messages that a learned route answered or routed, by agent and action.", ("agent", "action")),
    "unrecorded_turns_total": Spec("counter", "Rule-answered turns that could not be journalled because the hot store was away."),
    "handoffs_total": Spec("counter", "Requests handed from lightweight to heavy, by mode (accel, proxy, local).", ("mode",)),
    "endpoint_calls_total": Spec("counter", "Declared HTTP calls by endpoint and outcome (ok or how it failed).", ("endpoint", "outcome")),
    "endpoint_seconds": Spec("histogram", "Seconds of a declared HTTP call with its retries.", ("endpoint",), _CALL),
    "breaker_open": Spec("gauge", "1 while an endpoint's circuit breaker is open.", ("endpoint",)),
    "turns_total": Spec("counter", "Turns that ended in heavy, by state (done, failed, cancelled).", ("state",)),
    "turn_seconds": Spec("histogram", "Seconds of a turn in heavy, from its start to its commit.", (), _LONG),
    "turns_inflight": Spec("gauge", "Turns that run in this process now."),
    "heavy_inflight_ratio": Spec("gauge", "Share of the places of this process that are taken (admission_limit): what heavy scales on."),
    "llm_calls_total": Spec("counter", "LLM calls by target, outcome (ok or how it failed) and purpose.", ("target", "outcome", "purpose")),
    "llm_first_token_seconds": Spec("histogram", "Seconds from an LLM call to its first token.", ("target",), _LONG),
    "llm_tokens_total": Spec("counter", "Tokens by target and kind (input, cached, output).", ("target", "kind")),
    "llm_cost_usd_total": Spec("counter", "US dollars spent on LLM calls, by the models file's prices.", ("target",)),
    "llm_prompt_cache_total": Spec(
        "counter",
        "LLM calls by target and whether some of their input was in the provider's cache (hit, miss).",
        ("target", "outcome"),
    ),
    "llm_cached_replies_total": Spec(
        "counter",
        "Deterministic LLM calls by alias and whether a reply was kept for them (hit, miss).",
        ("alias", "outcome"),
    ),
    "llm_retries_total": Spec(
        "counter", "Tries of an LLM call beyond its first, by alias; refused where the retry budget was spent.", ("alias", "outcome")
    ),
    "llm_held_back_total": Spec(
        "counter",
        "Times that a target could not take an LLM call at once, by why (rate, max_concurrency, pause).",
        ("target", "why"),
    ),
    "llm_target_out": Spec("gauge", "1 while a target gets no LLM calls because they kept failing.", ("target",)),
    "ledger_waiting": Spec("gauge", "LLM calls on their way to the ledger; they gather while the database is away."),
    "ledger_lines_total": Spec("counter", "LLM calls by what became of their line in the ledger (written, dropped).", ("outcome",)),
    "journal_size": Spec("gauge", "Rule-answered turns on their way to the database."),
    "journal_moved_total": Spec("counter", "Rule-answered turns that were moved into the database."),
    "tasks_total": Spec("counter", "Tasks by lane and outcome (success, failure, cancelled, retried).", ("lane", "outcome")),
    "task_wait_seconds": Spec("histogram", "Seconds from a task's due time to its start.", ("lane",), _LONG),
    "tasks_waiting": Spec("gauge", "Due tasks that wait, of all processes, by lane (counted up to 100 000).", ("lane",)),
    "tasks_running": Spec("gauge", "Tasks that run, of all processes, by lane.", ("lane",)),
    "tasks_oldest_due": Spec("gauge", "Age of the oldest due task in seconds, of all processes, by lane.", ("lane",)),
    "schedule_ticks_total": Spec("counter", "Ticks of schedules by outcome (fired, missed: dropped after an hour).", ("outcome",)),
    "hotstore_errors_total": Spec("counter", "Hot-store operations that failed or took too long."),
    "access_revision": Spec("gauge", "Revision of the API keys and limits that hold here: the same on all replicas but for two seconds."),
    "config_revision": Spec("gauge", "Revision of the config centre that is in force here: the same on all replicas but for two seconds."),
    "config_refused": Spec("gauge", "Agents that serve an earlier version here than they should, since this process refuses it."),
    "config_rollbacks_total": Spec("counter", "Canaries that were taken back by themselves, since their error rate rose."),
    "quota_refusals_total": Spec(
        "counter", "Requests, turns, streams and LLM calls refused for a limit of a tenant or key, by limit.", ("limit",)
    ),
    "database_rows": Spec("gauge", "Rows of a table, as the database's statistics know them (not for SQLite).", ("table",)),
    "database_bytes": Spec("gauge", "Bytes of a table with its indexes; of SQLite the whole file as `all`.", ("table",)),
    "hotstore_keys": Spec("gauge", "Keys in the hot store."),
    "hotstore_bytes": Spec("gauge", "Bytes of memory that the hot store takes."),
    "purged_total": Spec("counter", "What was erased because it was too old: sessions, turns, records.", ("kind",)),
    "lease_lost_total": Spec("counter", "Turns that another node took over from this one."),
    "webhook_deliveries_total": Spec(
        "counter", "Attempts to deliver a message to a webhook, by outcome (delivered, again, failed).", ("outcome",)
    ),
    "webhook_seconds": Spec("histogram", "Seconds of one attempt to deliver a message to a webhook.", (), _CALL),
    "webhooks_pending": Spec("gauge", "Messages to webhooks that wait, in the whole database; each process counts them every 15 s."),
    "admission_limit": Spec("gauge", "How many turns (heavy) or rule answers (lightweight) may be under way now, by tier.", ("tier",)),
    "admission_waiting": Spec("gauge", "Messages that wait for a place in this process."),
    "admission_refusals_total": Spec(
        "counter", "Requests refused before anything was begun, by tier and why (full, waited, deadline).", ("tier", "why")
    ),
    "workers": Spec("gauge", "Processes that serve this port: 1, or as many as --workers asks for."),
    "worker_restarts_total": Spec("counter", "Worker processes of this port that ended unasked and were started again."),
}


class Number:
    """A labelled counter or gauge. Plain, for the event loop's thread: prometheus_client's own takes a lock and five calls for an `inc`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Adds."""
        self.value += amount

    def set(self, value: float) -> None:
        """Sets; for gauges only."""
        self.value = value


class Times:
    """A labelled histogram of seconds, as plain as `Number`. `counts` holds one place for each bucket and one for what is longer."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.sum += seconds
        self.counts[bisect_left(self.bounds, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many were not longer) as Prometheus wants them."""
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


class Family:
    """A metric with labels, and the collector of its children. `labels(...)` gives the child: a `Number`, or `Times` for a histogram."""

    def __init__(self, name: str, spec: Spec) -> None:
        self._name = name
        self._spec = spec
        self._children: dict[tuple[str, ...], Any] = {}
        self._seen: tuple[set[str], ...] = tuple(set() for _ in spec.labels)

    def labels(self, *values: str, **named: str) -> Any:
        """The counter, gauge or histogram of these label values, by position or by name."""
        key = values if not named else (*values, *(named[n] for n in self._spec.labels[len(values) :]))
        return self._children.get(key) or self._make(key)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """What prometheus_client's registry asks of a collector."""
        name, says, labels = self._name, self._spec.says, self._spec.labels
        if self._spec.kind == "histogram":
            times = HistogramMetricFamily(name, says, labels=labels)
            for key, child in self._children.items():
                times.add_metric(key, child.buckets(), child.sum)
            yield times
            return
        numbers = (CounterMetricFamily if self._spec.kind == "counter" else GaugeMetricFamily)(name, says, labels=labels)
        for key, child in self._children.items():
            numbers.add_metric(key, child.value)
        yield numbers

    def _make(self, key: tuple[str, ...]) -> Any:
        bounded = tuple(self._bound(value, seen) for value, seen in zip(key, self._seen, strict=True))
        child = self._children.get(bounded)
        if child is None:
            child = self._children[bounded] = Times(self._spec.buckets) if self._spec.kind == "histogram" else Number()
        return child

    @staticmethod
    def _bound(value: str, seen: set[str]) -> str:
        value = str(value)
        if value not in seen:
            if len(seen) >= MAX_LABEL_VALUES:
                return OTHER
            seen.add(value)
        return value


class Metrics:
    """The process's metrics on a registry of its own. Attributes are those of CATALOGUE; those with labels are a `Family`.
    `of_all_workers`, where the port has several processes, is the page of all of them."""

    requests_total: Family
    request_seconds: Family
    requests_inflight: Family
    event_loop_lag_seconds: Family
    rule_hits_total: Family
    learned_hits_total: Family
    unrecorded_turns_total: Counter
    handoffs_total: Family
    endpoint_calls_total: Family
    endpoint_seconds: Family
    breaker_open: Family
    turns_total: Family
    turn_seconds: Histogram
    turns_inflight: Gauge
    heavy_inflight_ratio: Gauge
    llm_calls_total: Family
    llm_first_token_seconds: Family
    llm_tokens_total: Family
    llm_cost_usd_total: Family
    llm_prompt_cache_total: Family
    llm_cached_replies_total: Family
    llm_retries_total: Family
    llm_held_back_total: Family
    llm_target_out: Family
    ledger_waiting: Gauge
    ledger_lines_total: Family
    journal_size: Gauge
    journal_moved_total: Counter
    tasks_total: Family
    task_wait_seconds: Family
    tasks_waiting: Family
    tasks_running: Family
    tasks_oldest_due: Family
    schedule_ticks_total: Family
    hotstore_errors_total: Counter
    database_rows: Family
    database_bytes: Family
    hotstore_keys: Gauge
    hotstore_bytes: Gauge
    purged_total: Family
    access_revision: Gauge
    config_revision: Gauge
    config_refused: Gauge
    config_rollbacks_total: Counter
    quota_refusals_total: Family
    lease_lost_total: Counter
    webhook_deliveries_total: Family
    webhook_seconds: Histogram
    webhooks_pending: Gauge
    admission_limit: Family
    admission_waiting: Gauge
    admission_refusals_total: Family
    workers: Gauge
    worker_restarts_total: Counter

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        for name, spec in CATALOGUE.items():
            setattr(self, name, self._metric(f"loadsplit_{name}", spec))
        self.of_all_workers: Callable[[], Awaitable[bytes]] | None = None
        self.genai: dict[str, Family] = {name: self._metric(name, spec) for name, spec in GENAI.items()}

    def _metric(self, full: str, spec: Spec) -> Any:
        if spec.labels:
            family = Family(full, spec)
            self.registry.register(family)
            return family
        if spec.kind == "histogram":
            return Histogram(full, spec.says, registry=self.registry, buckets=spec.buckets)
        return (Counter if spec.kind == "counter" else Gauge)(full, spec.says, registry=self.registry)

    def watch_process(self) -> None:
        """Adds memory, CPU, file descriptors and garbage collection of this process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.workers.set(1)

    def render(self) -> bytes:
        """The body of /metrics, of type CONTENT_TYPE."""
        return generate_latest(self.registry)
