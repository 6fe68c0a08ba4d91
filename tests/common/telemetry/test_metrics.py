"""The metrics catalogue: every metric is said, bounded and on a registry of its own."""

from __future__ import annotations

import pytest

from common.telemetry.metrics import CATALOGUE, MAX_LABEL_VALUES, Family, Metrics


def test_the_catalogue_is_whole() -> None:
    metrics = Metrics()
    page = metrics.render().decode()
    for name, spec in CATALOGUE.items():
        assert f"# HELP loadsplit_{name} {spec.says}" in page
        assert spec.says.endswith(".")
        assert isinstance(getattr(metrics, name), Family) is bool(spec.labels)
        assert (spec.kind == "counter") is name.endswith("_total")
        assert (spec.kind == "histogram") is name.endswith("_seconds")
    assert set(CATALOGUE) <= set(Metrics.__annotations__)
    assert set(Metrics.__annotations__) <= set(CATALOGUE)


def test_labels_by_position_and_by_name() -> None:
    metrics = Metrics()
    metrics.requests_total.labels("lightweight", "query", "200").inc()
    metrics.requests_total.labels(tier="lightweight", route_kind="query", status="200").inc()
    metrics.requests_total.labels("lightweight", status="200", route_kind="query").inc()
    assert 'loadsplit_requests_total{route_kind="query",status="200",tier="lightweight"} 3.0' in metrics.render().decode()
    with pytest.raises(ValueError, match="zip"):
        metrics.requests_total.labels("lightweight")


def test_times_fall_into_their_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.00005, 0.0001, 0.3, 99.0):
        metrics.request_seconds.labels("heavy").observe(seconds)
    value = metrics.registry.get_sample_value
    assert value("loadsplit_request_seconds_bucket", {"tier": "heavy", "le": "0.0001"}) == 2
    assert value("loadsplit_request_seconds_bucket", {"tier": "heavy", "le": "0.5"}) == 3
    assert value("loadsplit_request_seconds_bucket", {"tier": "heavy", "le": "+Inf"}) == 4
    assert value("loadsplit_request_seconds_count", {"tier": "heavy"}) == 4
    assert value("loadsplit_request_seconds_sum", {"tier": "heavy"}) == pytest.approx(99.30015)


def test_gauges_are_set() -> None:
    metrics = Metrics()
    metrics.breaker_open.labels("flow a").set(1)
    metrics.breaker_open.labels("flow a").set(0)
    metrics.breaker_open.labels("flow b").set(1)
    value = metrics.registry.get_sample_value
    assert [value("loadsplit_breaker_open", {"endpoint": f"flow {n}"}) for n in "ab"] == [0, 1]


def test_children_are_kept() -> None:
    family = Metrics().handoffs_total
    assert family.labels("accel") is family.labels("accel")


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for n in range(10_000):
        metrics.rule_hits_total.labels("agent", f"flow-{n}").inc()
    page = metrics.render().decode()
    assert page.count("loadsplit_rule_hits_total{") == MAX_LABEL_VALUES + 1
    assert f'loadsplit_rule_hits_total{{action="other",agent="agent"}} {10_000.0 - MAX_LABEL_VALUES}' in page


def test_two_registries_are_two() -> None:
    one, other = Metrics(), Metrics()
    one.lease_lost_total.inc()
    assert b"loadsplit_lease_lost_total 1.0" in one.render()
    assert b"loadsplit_lease_lost_total 0.0" in other.render()


def test_the_process_is_watched_on_demand() -> None:
    metrics = Metrics()
    assert b"process_resident_memory_bytes" not in metrics.render()
    metrics.watch_process()
    assert b"process_resident_memory_bytes" in metrics.render()
