"""One page of several processes: what is added, what is said once, what stays of those that have ended."""

from __future__ import annotations

import pytest

from common.telemetry.merged import GAUGES, Page
from common.telemetry.metrics import CATALOGUE, Metrics


def page(metrics: Metrics) -> Page:
    return Page.read(metrics.render().decode())


def lines(merged: Page) -> list[str]:
    return merged.render().decode().splitlines()


def worker(requests: int, seconds: float, waiting: float) -> Metrics:
    metrics = Metrics()
    metrics.watch_process()
    metrics.requests_total.labels("lightweight", "query", "200").inc(requests)
    metrics.requests_total.labels("lightweight", "query", f"40{requests}").inc()
    metrics.request_seconds.labels("lightweight").observe(seconds)
    metrics.turn_seconds.observe(seconds)
    metrics.tasks_waiting.labels("batch").set(waiting)
    metrics.breaker_open.labels("orders").set(waiting > 4)
    metrics.heavy_inflight_ratio.set(waiting / 10)
    metrics.config_revision.set(requests)
    metrics.admission_waiting.set(2)
    return metrics


def test_every_gauge_says_how_it_is_put_together() -> None:
    assert set(GAUGES) == {name for name, spec in CATALOGUE.items() if spec.kind == "gauge"}


def test_a_page_of_one_is_its_own() -> None:
    metrics = worker(3, 0.2, 4)
    text = metrics.render()
    assert Page.read(text.decode()).render() == text
    assert Page.together([Page.read(text.decode())]).render() == text


def test_counters_and_histograms_are_added_and_gauges_by_their_meaning() -> None:
    merged = lines(Page.together([page(worker(3, 0.2, 4)), page(worker(5, 0.004, 6))]))
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in merged if not line.startswith("#")}
    assert told['loadsplit_requests_total{route_kind="query",status="200",tier="lightweight"}'] == 8
    assert told['loadsplit_requests_total{route_kind="query",status="403",tier="lightweight"}'] == 1
    assert told['loadsplit_requests_total{route_kind="query",status="405",tier="lightweight"}'] == 1
    assert told['loadsplit_request_seconds_bucket{le="0.005",tier="lightweight"}'] == 1
    assert told['loadsplit_request_seconds_bucket{le="0.25",tier="lightweight"}'] == 2
    assert told['loadsplit_request_seconds_count{tier="lightweight"}'] == told["loadsplit_turn_seconds_count"] == 2
    assert told['loadsplit_request_seconds_sum{tier="lightweight"}'] == pytest.approx(0.204)
    assert told['loadsplit_tasks_waiting{lane="batch"}'] == 6  # each counts those of all processes
    assert told['loadsplit_breaker_open{endpoint="orders"}'] == 1
    assert told["loadsplit_heavy_inflight_ratio"] == 0.5
    assert told["loadsplit_config_revision"] == 3  # the one that is behind
    assert told["loadsplit_admission_waiting"] == 4
    assert told["loadsplit_workers"] == 2
    assert told["process_resident_memory_bytes"] > 1.9 * resident()
    assert next(line for line in merged if line.startswith("python_info{")).endswith(" 1.0")
    assert len([line for line in merged if line == "# TYPE loadsplit_requests_total counter"]) == 1


def resident() -> float:
    metrics = Metrics()
    metrics.watch_process()
    line = next(one for one in metrics.render().decode().splitlines() if one.startswith("process_resident_memory_bytes "))
    return float(line.split()[1])


def test_the_counters_of_the_dead_stay_and_their_gauges_go() -> None:
    left = page(worker(3, 0.2, 9)).what_stays()
    merged = lines(Page.together([page(worker(5, 0.2, 1)), left]))
    assert 'loadsplit_requests_total{route_kind="query",status="200",tier="lightweight"} 8.0' in merged
    assert "loadsplit_turn_seconds_count 2.0" in merged
    assert "loadsplit_workers 1.0" in merged
    assert 'loadsplit_tasks_waiting{lane="batch"} 1.0' in merged
