"""The report of a bench, from small raw files: every promise stands in it, pictures are drawn, the page needs no other file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadtests.promises import read
from loadtests.reporting.document import write_report
from loadtests.rows.stage import Found, Plot, over_time, percentile, save, text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    options: dict[str, Any] = {"date": "2026-01-02", "name": "2-core-x86_64", "scale": "tiny", "machine": {"cores": "2", "kernel": "Linux"}}
    (tmp_path / "options.json").write_text(json.dumps(options))
    return tmp_path


def paths() -> Found:
    found = Found()
    found.add("rule.rate", 900, 1000)
    found.add("bare_rules_get.rate", 1000, 1000)
    found.add("flow.rate", 100)
    found.add("bare_flow.rate", 1000)
    found.add("lightweight.rss_mb", 64)
    found.plots["throughput"] = Plot("Throughput", "", "req/s", {"req/s": [["rule", 1000], ["bare", 1100]]}, bars=True)
    found.tables["a table"] = [["server", "req/s"], ["a | b", 12345.6]]
    found.note("wrk on the other core.")
    found.note("wrk on the other core.")
    return found


def test_the_report_has_every_promise_and_says_why_one_is_not_kept(folder: Path) -> None:
    save(folder / "raw" / "paths.json", "paths", "ok", paths(), 12.0)
    statuses = write_report(folder)
    report = (folder / "report.md").read_text()
    assert len(statuses) == len(read())
    assert "| rule path | static answer" in report
    assert re.search(r"\| 950 req/s \| 1,000 req/s .* \| 0\.95 × \| pass \|", report)
    assert re.search(r"\| flow path: a rule with its HTTP call \| fail \| ≥ 0.7 × \| 0\.10 × \|", report)
    assert report.count("wrk on the other core.") == 1
    assert r"| a \| b | 12,346 |" in report
    assert statuses.count("not run") > 10


def test_the_page_needs_no_other_file(folder: Path) -> None:
    save(folder / "raw" / "paths.json", "paths", "ok", paths(), 12.0)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert (folder / "paths-throughput.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "memory.png").exists()
    assert page.count("data:image/png;base64,") == 2
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


def test_a_broken_section_is_in_the_report_with_what_it_had_found(folder: Path) -> None:
    found = Found()
    found.add("split.idle_p99_ms", 2.0)
    save(folder / "raw" / "isolation.json", "isolation", "broken", found, 3.0, error="RuntimeError: nginx did not become ready")
    statuses = write_report(folder)
    report = (folder / "report.md").read_text()
    assert statuses.count("broken") == 2
    assert "This section is broken: RuntimeError: nginx did not become ready" in report
    assert "| split.idle_p99_ms | 2 |" in report


def test_lines_and_spans_are_drawn(folder: Path) -> None:
    found = Found()
    found.plots["isolation"] = Plot("p99", "s", "ms", {"split": [[0, 1.0], [1, 2.0]]}, spans=[[0, 1, "pressure"]], log_y=True)
    save(folder / "raw" / "isolation.json", "isolation", "ok", found, 3.0)
    write_report(folder)
    assert (folder / "isolation.png").exists()


def test_an_empty_run_is_a_report_too(folder: Path) -> None:
    assert set(write_report(folder)) == {"not run"}


def test_percentiles_over_time() -> None:
    samples = [(0.1, 5.0), (0.9, 7.0), (2.5, 1.0)]
    assert over_time(samples, 0.99, 1.0) == [[0.0, 7.0], [2.0, 1.0]]
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0], 0.99) == 3.0


def test_figures_are_written_for_people() -> None:
    assert [text(v) for v in (12345.678, 0.123456, 3.0, "x", 12)] == ["12,346", "0.1235", "3", "x", "12"]
