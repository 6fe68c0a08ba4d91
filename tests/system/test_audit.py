"""The audit of dependencies fails for what is known to be unsafe, and never calls unseen packages safe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit"
SAFE = {"name": "starlette", "version": "1.10.0", "vulns": []}
UNSAFE = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.6"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
UNKNOWN = {"name": "ours", "skip_reason": "not found"}


def audit(folder: Path, report: str | list[dict[str, Any]], *options: str) -> tuple[int, list[str]]:
    """The exit code and the lines for a report of pip-audit."""
    path = folder / "report.json"
    path.write_text(report if isinstance(report, str) else json.dumps({"dependencies": report, "fixes": []}))
    command = [sys.executable, str(SCRIPT), "--report", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_known_vulnerability_fails_and_says_what_mends_it(tmp_path: Path) -> None:
    assert audit(tmp_path, [SAFE, UNSAFE]) == (
        1,
        [
            "audit: jinja2 3.1.2: PYSEC-1, mended in 3.1.6",
            "audit: jinja2 3.1.2: PYSEC-2, mended in no version yet",
            "audit: 2 packages looked up: 2 known vulnerabilities",
        ],
    )


def test_what_was_not_looked_up_is_counted_apart(tmp_path: Path) -> None:
    assert audit(tmp_path, [SAFE, UNKNOWN], "--strict") == (0, ["audit: 1 packages looked up, 1 not known there: 0 known vulnerabilities"])


def test_unreachable_advisories_are_no_clean_bill(tmp_path: Path) -> None:
    for report in ("", "Traceback", "[]", "{}", [UNKNOWN, UNKNOWN]):
        assert audit(tmp_path, report)[0] == 0
        code, (line,) = audit(tmp_path, report, "--strict")
        assert (code, "NOT DONE" in line) == (1, True)
