"""What a report says: the machine, every promise with its verdict, why a row fails, and each section's figures, tables and pictures.

Everything comes from the raw files and promises.yaml; a figure that no section has found is said to be missing.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.promises import Promise, Verdict, judge, read
from loadtests.reporting.blocks import Report
from loadtests.reporting.plots import draw
from loadtests.rows import sections
from loadtests.rows.stage import text

Raws = Mapping[str, Mapping[str, Any]]
QUIET = 0.7  # load average at the start up to which a machine counts as quiet
TITLES = {**sections(), "soak": "soak"}


def write_report(folder: Path) -> list[str]:
    """Reads raw/ and options.json of a report's folder, writes report.md, report.html and the pictures. The statuses of all promises."""
    raws = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "raw").glob("*.json"))}
    options = json.loads((folder / "options.json").read_text())
    verdicts = [judge(promise, raws) for promise in read()]
    report = Report(f"Bench of {options['date']}, {options['name']}")
    _head(report, options, raws, verdicts)
    _promises(report, verdicts)
    _failures(report, verdicts, raws)
    _memory(report, folder, raws)
    for name in sorted(raws, key=lambda name: list(TITLES).index(name) if name in TITLES else len(TITLES)):
        _section(report, folder, name, raws[name])
    (folder / "report.md").write_text(report.markdown())
    (folder / "report.html").write_text(report.page(folder))
    return [verdict.status for verdict in verdicts]


def _head(report: Report, options: Mapping[str, Any], raws: Raws, verdicts: Sequence[Verdict]) -> None:
    counts = {status: sum(v.status == status for v in verdicts) for status in ("pass", "fail", "broken", "not run")}
    report.paragraph("; ".join(f"{count} {status}" for status, count in counts.items() if count) + f", of {len(verdicts)} promises.")
    rows = [["", ""], *([name, str(value)] for name, value in options["machine"].items())]
    if float(options["machine"].get("load at the start", "0").split()[0]) > QUIET:
        report.paragraph(
            "Other work ran on this machine when the bench began: absolute figures, and rows at a bound, are not to be trusted."
        )
    took = sum(raw["seconds"] for raw in raws.values())
    rows += [["scale", options["scale"]], ["took", f"{took / 60:.1f} min"]]
    rows += [[name, options[name]] for name in ("messages", "arrivals", "litellm", "soak") if options.get(name)]
    report.table(rows)
    report.paragraph(
        "Figures are medians over the rounds; ratios and differences are the medians of the rounds' own. What stands beside each other was "
        "measured in the same run. Ratios travel to other machines, absolute figures do not."
    )


def _promises(report: Report, verdicts: Sequence[Verdict]) -> None:
    report.heading("Promises")
    rows = [["row", "what", "target", "measured", "reference", "held against the target", "verdict"]]
    last = ""
    for verdict in verdicts:
        promise = verdict.promise
        reference = "" if verdict.reference is None else f"{text(verdict.reference)} {promise.unit} ({promise.reference_name})"
        measured = "" if verdict.measured is None else f"{text(verdict.measured)} {promise.unit}"
        row = promise.row if promise.row != last else ""
        rows.append([row, promise.words, promise.target, measured, reference, _value(promise, verdict), verdict.status])
        last = promise.row
    report.table(rows)


def _value(promise: Promise, verdict: Verdict) -> str:
    if verdict.value is None:
        return ""
    if promise.judge == "ratio":
        return f"{verdict.value:.2f} ×"
    if promise.judge == "difference":
        return f"{verdict.value:+.2f} {promise.unit}"
    if verdict.reference:
        return f"{verdict.value / verdict.reference:.2f} × the reference"
    return text(verdict.value)


def _failures(report: Report, verdicts: Sequence[Verdict], raws: Raws) -> None:
    """Why each row that is not kept is not kept, and what was tried."""
    missed = [
        v for v in verdicts if v.status in ("fail", "broken") or (v.status == "not run" and v.promise.measured.partition("/")[0] in raws)
    ]
    told = {v.promise.measured.partition("/")[0] for v in missed if v.status == "broken"}
    broken = [name for name, raw in raws.items() if raw["status"] == "broken" and name not in told]
    if not missed and not broken:
        return
    report.heading("What is not kept")
    rows = [["row", "verdict", "target", "held against it", "why, and what was tried"]]
    for verdict in missed:
        promise = verdict.promise
        why = verdict.why or promise.notes or "Not explained yet."
        rows.append([f"{promise.row}: {promise.words}", verdict.status, promise.target, _value(promise, verdict), why])
    rows += [[f"section {name}", "broken", "", "", str(raws[name].get("error", ""))] for name in broken]
    report.table(rows)


def _memory(report: Report, folder: Path, raws: Raws) -> None:
    """Resident memory of every process that a section has looked at."""
    found = [
        [f"{section}: {name.removesuffix('.rss_mb')}", statistics.median(samples)]
        for section, raw in raws.items()
        for name, samples in raw["figures"].items()
        if name.endswith("rss_mb") and samples
    ]
    if found:
        report.heading("Memory")
        plot = {"title": "Resident memory of a process", "x": "", "y": "MB", "lines": {"MB": found}, "bars": True, "spans": []}
        _picture(report, folder, "memory", "memory", plot)


def _section(report: Report, folder: Path, name: str, raw: Mapping[str, Any]) -> None:
    title = TITLES.get(name, name)
    report.heading(title[0].upper() + title[1:])
    if raw["status"] != "ok":
        report.paragraph(f"This section is {raw['status']}: {raw.get('error', '')}")
    for note in raw["notes"]:
        report.paragraph(note)
    for key, plot in raw["plots"].items():
        _picture(report, folder, name, key, plot)
    for title, rows in raw["tables"].items():
        report.heading(title, 3)
        report.table([[text(cell) for cell in row] for row in rows])
    if raw["figures"]:
        report.heading("Figures", 3)
        rows = [["figure", "median", "least", "most", "samples"]]
        for figure, samples in raw["figures"].items():
            if samples:
                values = [text(value) for value in (statistics.median(samples), min(samples), max(samples))]
                rows.append([figure, *values, str(len(samples))])
        report.table(rows)


def _picture(report: Report, folder: Path, section: str, key: str, plot: Mapping[str, Any]) -> None:
    file = f"{section}-{re.sub(r'[^a-z0-9]+', '-', key.lower())}.png" if key != section else f"{section}.png"
    draw(plot, folder / file)
    report.picture(file, plot["title"])
