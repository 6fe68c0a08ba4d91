"""`make bench`: every promise beside its reference, measured in one run, as a report with pictures.

`python -m loadtests.bench --full --messages banking.csv --arrivals arrivals.csv` starts each deployment itself, a section at a time, and
writes loadtests/reports/<date>-<machine>/: report.md, report.html, pictures, raw/*.json. A section that breaks is reported as broken.
`--only isolation` runs some, `--resume DIR` what is missing there, `--report-only DIR` renders again. Linux; wrk, nginx, redis and
PostgreSQL must be installed (scripts/install-test-deps).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtests import machine
from loadtests.members import MARK, marked
from loadtests.reporting.document import write_report
from loadtests.rows import section_of, sections
from loadtests.rows.stage import PROGRESS, SCALES, Found, Scale, Stage, given, save

REPORTS = Path(__file__).with_name("reports")
TOOLS = {"wrk": "wrk", "taskset": "util-linux", "nginx": "nginx", "redis-server": "redis-server"}
UNITS = {"s": 1, "m": 60, "h": 3600}
PATIENCE, PATIENCE_MORE = 3, 180  # a section may take so many times what was thought, and so many seconds more


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the report. Returns 0 when every promise that was measured is kept, 1 when one is not, 2 for what cannot run."""
    options = parser().parse_args(arguments)
    try:
        if options.section:
            return one(options)
        if options.report_only:
            return written(options.report_only)
        return measured(options)
    except ValueError as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", dest="scale", action="store_const", const="quick", help="five minutes: does it work, roughly how fast")
    how.add_argument("--full", dest="scale", action="store_const", const="full", help="what a report is made of (about 25 minutes)")
    how.add_argument("--scale", choices=SCALES, help=argparse.SUPPRESS)
    parser.add_argument(
        "--only", action="append", choices=[*sections(), "soak"], metavar="SECTION", help=f"just this: {', '.join(sections())}"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each row instead of the scale's")
    parser.add_argument("--messages", type=Path, metavar="CSV", help="real messages, columns text,category")
    parser.add_argument("--arrivals", type=Path, metavar="CSV", help="real arrivals, columns TIMESTAMP,ContextTokens,GeneratedTokens")
    parser.add_argument("--litellm", type=Path, metavar="VENV", help="a virtual environment with litellm[proxy], to stand beside")
    parser.add_argument("--soak", metavar="TIME", help="also a soak of that length, such as 20m, at 70 %% load")
    parser.add_argument("--machine", default=machine.name(), metavar="NAME", help="the machine's name in the report (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: loadtests/reports/<date>-<machine>)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="run what is missing or broken in that report's folder")
    parser.add_argument("--report-only", type=Path, metavar="DIR", help="render that folder again, measure nothing")
    parser.add_argument("--section", choices=[*sections(), "soak"], help=argparse.SUPPRESS)
    parser.set_defaults(scale=None)
    return parser


def measured(options: argparse.Namespace) -> int:
    """Runs the sections that are wanted, each in a process of its own, and writes the report as it grows."""
    missing = [f"{tool} (apt install {package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise ValueError(f"these are needed: {', '.join(missing)}")
    for name in ("messages", "arrivals"):
        if (path := getattr(options, name)) is not None and not path.is_file():
            raise ValueError(f"--{name}: there is no file {path}")
    folder = prepared(options)
    plan = wanted(options, folder)
    thought = sum(plan.values())
    print(f"{len(plan)} sections, about {_minutes(thought)}; they go to {folder}", file=sys.stderr)
    began = time.monotonic()
    for number, (name, seconds) in enumerate(plan.items(), 1):
        left = sum(list(plan.values())[number - 1 :])
        bar = "█" * round(20 * (number - 1) / len(plan))
        print(f"[{bar:<20}] {number}/{len(plan)} {name}, about {_minutes(seconds)}; {_minutes(left)} left", file=sys.stderr, flush=True)
        run_section(name, folder, seconds, files(options))
        if number < len(plan):
            write_report(folder)
    print(f"took {_minutes(time.monotonic() - began)}", file=sys.stderr)
    return written(folder)


def prepared(options: argparse.Namespace) -> Path:
    """The report's folder with what the sections must know in options.json. A resumed one keeps what it was begun with."""
    folder: Path = options.resume or options.out or REPORTS / f"{datetime.now(UTC):%Y-%m-%d}-{options.machine}"
    kept = folder / "options.json"
    if options.resume and not kept.is_file():
        raise ValueError(f"--resume: {folder} is no report's folder")
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = json.loads(kept.read_text()) if options.resume else {}
    asked |= {name: path.name for name, path in files(options).items()}  # the report keeps no machine's folders
    if not options.resume:
        asked |= {"scale": options.scale or "quick", "rounds": options.rounds, "soak": options.soak, "name": options.machine}
        asked |= {"machine": machine.description(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    elif options.soak:
        asked["soak"] = options.soak
    kept.write_text(json.dumps(asked, indent=1, ensure_ascii=False))
    return folder


def wanted(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Sections to run with the seconds that each takes, about."""
    asked = json.loads((folder / "options.json").read_text())
    names = options.only or [*sections(), *(["soak"] if asked.get("soak") else [])]
    if options.resume:
        names = [name for name in names if _status(folder, name) != "ok"]
    stage = stage_of(folder, asked, files(options))
    return {name: section_of(name).seconds(stage) for name in names}


def files(options: argparse.Namespace) -> dict[str, Path]:
    """The files that were named, by the names of their options."""
    return {name: path.absolute() for name in ("messages", "arrivals", "litellm") if (path := getattr(options, name)) is not None}


def stage_of(folder: Path, asked: dict[str, Any], files: dict[str, Path]) -> Stage:
    """Where a section works, with the files that were named."""
    return Stage(folder, scale_of(asked), files.get("messages"), files.get("arrivals"), files.get("litellm"))


def scale_of(asked: dict[str, Any]) -> Scale:
    """The scale that a report's options ask for. Raises ValueError for a length of the soak that is none."""
    scale = SCALES[asked["scale"]]
    if asked.get("rounds"):
        scale = replace(scale, rounds=asked["rounds"])
    if soak := asked.get("soak"):
        if soak[-1:] not in UNITS or not soak[:-1].isdigit():
            raise ValueError(f"--soak: {soak} is no time such as 20m or 90s")
        scale = replace(scale, soak_seconds=int(soak[:-1]) * UNITS[soak[-1]])
    return scale


def run_section(name: str, folder: Path, seconds: float, files: dict[str, Path]) -> None:
    """One section in a process of its own. Nothing that it has started lives on, and its raw file says how it went."""
    raw = folder / "raw" / f"{name}.json"
    raw.unlink(missing_ok=True)
    mark = secrets.token_hex(8)
    command = ["env", f"{MARK}={mark}", sys.executable, "-m", "loadtests.bench", "--section", name, "--out", str(folder)]
    command += [part for key, path in files.items() for part in (f"--{key}", str(path))]
    began, log = time.monotonic(), folder / "raw" / f"{name}.log"
    with log.open("w") as errors, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        killer = _Killer(mark, PATIENCE * seconds + PATIENCE_MORE)
        try:
            for line in child.stderr or ():
                errors.write(line)
                if line.startswith(PROGRESS):
                    print(line, end="", file=sys.stderr, flush=True)
            child.wait()
        finally:
            killer.cancel()
            end_all(mark)  # also where somebody has ended the bench itself
    took = time.monotonic() - began
    if not raw.is_file():
        save(raw, name, "broken", Found(), took)
    document = json.loads(raw.read_text())
    if document["status"] == "ok":
        log.unlink()
    else:
        lines = [line for line in log.read_text().splitlines() if line.strip() and not line.startswith(" ")]
        document["error"] = "it took too long" if killer.fired else (lines[-1] if lines else f"it ended with {child.returncode}")
        raw.write_text(json.dumps(document, indent=1, ensure_ascii=False))
        print(f"    {name} is broken: {document['error']}", file=sys.stderr, flush=True)


def end_all(mark: str) -> None:
    """Ends everything that a section has started."""
    for pid, _ in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Killer:
    """Ends a section that takes too long, with all that it has started."""

    def __init__(self, mark: str, seconds: float) -> None:
        self.fired = False
        self._mark = mark
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        self.fired = True
        end_all(self._mark)

    def cancel(self) -> None:
        """It has ended by itself."""
        self._timer.cancel()


def one(options: argparse.Namespace) -> int:
    """The process of one section. What it has found is written even when it breaks; the trace goes to the parent's log."""
    asked = json.loads((options.out / "options.json").read_text())
    raw = options.out / "raw" / f"{options.section}.json"
    began, status = time.monotonic(), "broken"
    with tempfile.TemporaryDirectory(prefix="loadsplit-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        stage = stage_of(Path(folder), asked, files(options))
        try:
            section_of(options.section).measure(stage)
            status = "ok"
        finally:
            named = given(files(options))
            save(raw, options.section, status, stage.found, time.monotonic() - began, scale=stage.scale.name, files=named)
    return 0


def written(folder: Path) -> int:
    """Renders the report; the exit code."""
    if not (folder / "options.json").is_file():
        raise ValueError(f"{folder} is no report's folder")
    statuses = write_report(folder)
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    print(f"{folder / 'report.md'}: {counts}")
    return 0 if set(statuses) <= {"pass", "not run"} else 1


def _status(folder: Path, name: str) -> str:
    raw = folder / "raw" / f"{name}.json"
    return str(json.loads(raw.read_text())["status"]) if raw.is_file() else "missing"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended too
    sys.exit(main())
