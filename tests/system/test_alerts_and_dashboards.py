"""Alerts and dashboards ask for metrics that there are, with labels that those have, in expressions that Prometheus can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from common.telemetry.genai import GENAI
from common.telemetry.metrics import CATALOGUE, Metrics
from common.telemetry.page import HEADING, tables, write

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OF_SCRAPES = {"job", "instance"}


def known() -> dict[str, tuple[str, set[str]]]:
    """Every series that /metrics may have: of which kind it is, and its labels."""
    metrics = Metrics()
    metrics.watch_process()
    found: dict[str, tuple[str, set[str]]] = {"up": ("gauge", set())}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, set())
    specs = {**{f"loadsplit_{name}": spec for name, spec in CATALOGUE.items()}, **GENAI}
    for name, spec in specs.items():
        found.pop(name, None)
        if spec.kind == "histogram":
            for end in ("_bucket", "_sum", "_count"):
                found[name + end] = ("histogram", {*spec.labels, *(["le"] if end == "_bucket" else [])})
        else:
            found[name] = (spec.kind, set(spec.labels))
    return found


KNOWN = known()
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))


def panels() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of every query."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], target["expr"], target["legendFormat"]


PANELS = list(panels())


def wrong_in(text: str) -> list[str]:
    """What is wrong with an expression."""
    wrong: list[str] = []
    rated: set[int] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.MatrixSelector):
            rated.add(id(node.vector_selector))
            check(node.vector_selector, in_range=True)
        elif isinstance(node, promql.VectorSelector) and id(node) not in rated:
            check(node, in_range=False)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            names = {label for _, labels in KNOWN.values() for label in labels} | OF_SCRAPES
            wrong.extend(f"groups by {label}, which no metric has" for label in node.modifier.labels if label not in names)

    def check(selector: Any, *, in_range: bool) -> None:
        if selector.name not in KNOWN:
            wrong.append(f"there is no {selector.name}")
            return
        kind, labels = KNOWN[selector.name]
        if kind in ("counter", "histogram") and not in_range:
            wrong.append(f"{selector.name} only grows: it wants rate() or increase()")
        wrong.extend(
            f"{selector.name} has no label {matcher.name}"
            for matcher in selector.matchers.matchers
            if matcher.name not in labels | OF_SCRAPES
        )

    promql.walk(promql.parse(text.replace("$__rate_interval", "1m")), visit)
    return wrong


@pytest.mark.parametrize("rule", ALERTS, ids=lambda r: r["alert"])
def test_alerts_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    assert wrong_in(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    promql.parse_duration(rule.get("for", "1m"))
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"] + rule["annotations"]["description"]))
    assert all(re.search(rf"\b{label}\b", rule["expr"]) or label in OF_SCRAPES for label in told)
    for name in re.findall(r"loadsplit_\w+", rule["annotations"]["description"]):
        assert {name, f"{name}_count"} & set(KNOWN), f"{name} is named in words only"


def test_alerts_have_names_of_their_own() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) > 15


@pytest.mark.parametrize(("title", "expression", "legend"), PANELS, ids=[f"{t}: {n}" for t, _, n in PANELS])
def test_panels_ask_for_what_there_is(title: str, expression: str, legend: str) -> None:
    assert wrong_in(expression) == []
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert re.search(rf"\b{label}\b", expression) or label in OF_SCRAPES, f"{title}: the legend names {label}"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("loadsplit_nothing", "there is no loadsplit_nothing"),
        ("rate(loadsplit_requests_total{colour='red'}[5m])", "loadsplit_requests_total has no label colour"),
        ("loadsplit_requests_total", "loadsplit_requests_total only grows: it wants rate() or increase()"),
        ("rate(loadsplit_turn_seconds[5m])", "there is no loadsplit_turn_seconds"),
        ("sum by (colour) (loadsplit_journal_size)", "groups by colour, which no metric has"),
    ],
)
def test_the_check_finds_what_is_wrong(expression: str, says: str) -> None:
    assert wrong_in(expression) == [says]


def test_the_four_signals_are_shown_for_both_tiers() -> None:
    asked = " ".join(expression for _, expression, _ in PANELS)
    for name in ("requests_total", "request_seconds_bucket", "requests_inflight", "event_loop_lag_seconds_bucket", "heavy_inflight_ratio"):
        assert f"loadsplit_{name}" in asked


def test_prometheus_reads_these_files() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    assert {job["job_name"] for job in config["scrape_configs"]} == {"loadsplit-lightweight", "loadsplit-heavy", "loadsplit-worker"}
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]["uid"]
    for path in DASHBOARDS:
        text = path.read_text()
        assert set(re.findall(r'"uid": "(\w+)"', text)) == {source, json.loads(text)["uid"]}


def test_the_document_has_every_metric() -> None:
    """`python -m common.telemetry.page docs/metrics.md` writes the tables anew."""
    written = (ROOT / "docs/metrics.md").read_text()
    assert written.endswith(HEADING + tables())


def test_the_tables_are_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "metrics.md"
    page.write_text(f"# Metrics\n\nWords.\n\n{HEADING}old")
    write(page)
    assert page.read_text() == f"# Metrics\n\nWords.\n\n{HEADING}{tables()}"
