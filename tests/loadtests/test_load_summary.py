"""The summary of a load run: percentiles, rates, failures; and the whole locustfile against a stub server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.summary import Samples, Summary
from tests.browser.stub import StubServer

ROOT = Path(__file__).parents[2]


def test_percentiles_are_right_within_two_percent() -> None:
    samples = Samples()
    for value in range(1, 1001):
        samples.add(value / 10)
    assert samples.percentile(0.5) == pytest.approx(50, rel=0.02)
    assert samples.percentile(0.95) == pytest.approx(95, rel=0.02)
    assert samples.percentile(0.99) == pytest.approx(99, rel=0.02)
    assert samples.count == 1000


def test_failures_are_counted_but_not_timed() -> None:
    summary = Summary()
    summary.requests["agent turn"] = samples = Samples()
    samples.fail("status 503")
    samples.fail("status 503")
    assert (samples.count, samples.failures, samples.percentile(0.5)) == (2, 2, None)
    table = summary.table(2)
    assert re.search(r"agent turn +2 +2 +- +- +- +1\.0", table)
    assert "2 × agent turn: status 503" in table


def test_a_table_without_samples_is_only_its_head() -> None:
    assert Summary().table(0).count("\n") == 0


def test_the_locustfile_runs_and_ends_with_a_table() -> None:
    with StubServer().serving() as server:
        command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary", "--host", server.url]
        command += ["RuleUser", "FlowUser", "AgentTurnUser", "StreamUser"]  # what the stub can answer
        ended = subprocess.run(
            [*command, "-u", "10", "-r", "10", "-t", "5s"], cwd=ROOT, capture_output=True, text=True, timeout=45, check=False
        )
    assert ended.returncode == 0, ended.stderr[-2000:]
    table = ended.stdout[ended.stdout.index("load for") :]
    for kind in ("rule, static answer", "rule, HTTP call", "agent turn", "stream"):
        assert re.search(rf"^{kind} +[1-9]\d* +0 ", table, re.MULTILINE), table
    for timing in ("first token", "gap between tokens"):
        assert re.search(rf"^{timing} +[1-9]", table, re.MULTILINE), table
