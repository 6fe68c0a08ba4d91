"""Somebody wants to know what this machine does: one command measures a section and writes a report that tells every promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)


def test_one_section_is_measured_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = bench("--scale", "tiny", "--only", "matching", "--machine", "a-machine", "--out", str(out))
    assert "1 sections" in done.stderr
    assert "[" in done.stderr
    assert "10 rules" in done.stderr
    report = (out / "report.md").read_text()
    assert ", a-machine" in report.splitlines()[0]
    assert "![Matching on unseen messages](matching.png)" in report
    assert json.loads((out / "raw" / "matching.json").read_text())["status"] == "ok"
    assert "not run" in report
    assert f"{out / 'report.md'}: " in done.stdout
