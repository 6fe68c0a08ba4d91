"""The command line: options, progress, the verdict in words, the exit code (0 proven, 1 violated, 2 could not run)."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.chaos.history import Evidence
from loadtests.chaos.run import Options, run
from loadtests.chaos.run import Progress as Far
from loadtests.chaos.verdict.judge import Verdict, judge
from loadtests.members import CannotRun

QUICK = {"turns": 300, "kills": 8, "clients": 12}
LONG = {"turns": 11_000, "kills": 420, "clients": 24}  # 10 000 turns, as some messages are merged or refused; 200 are killed outright
SHOWN = 40


def main() -> int:
    """Runs and judges; prints what was found."""
    options = _parser().parse_args()
    if options.judge:
        try:
            return _tell(judge(Evidence.load(options.judge)), options.judge)
        except (OSError, ValueError, TypeError, KeyError) as e:
            print(f"{options.judge} holds no evidence: {e}", file=sys.stderr)
            return 2
    for name, value in (QUICK if options.quick else LONG).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    seed = options.seed if options.seed is not None else secrets.randbelow(2**32)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="loadsplit-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"{folder} is not empty", file=sys.stderr)
        return 2
    if not options.keep:
        folder.chmod(0o755)
    seconds = 300 + 0.5 * options.turns + 10 * options.kills
    wanted = Options(seed, options.turns, options.kills, options.clients, seconds)
    print(
        f"seed {seed}: {wanted.turns} messages of {wanted.clients} clients, {wanted.faults} faults; repeat it with --seed {seed}",
        flush=True,
    )
    code = 2
    try:
        code = _run(wanted, folder)
    finally:
        if code == 0 and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"evidence and logs: {folder}", flush=True)
    return code


def _run(options: Options, folder: Path) -> int:
    far = Far()
    began = time.monotonic()
    try:
        evidence = asyncio.run(_shown(options, folder, far))
    except CannotRun as e:
        print(f"could not run: {e}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: everything is stopped", file=sys.stderr)
        return 2
    evidence.save(folder / "evidence")
    verdict = judge(evidence)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    (folder / "verdict.json").write_text(json.dumps({"options": asdict(options), **asdict(verdict)}, indent=1))
    return _tell(verdict, folder, evidence)


async def _shown(options: Options, folder: Path, far: Far) -> Evidence:
    """The run, with a bar. SIGTERM ends it as Ctrl-C does."""
    running = asyncio.create_task(run(options, folder, far))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=options.turns, figures="")
        while not running.done():
            figures = f"{far.said}/{options.turns} messages, {far.ended} ended, {far.faults}/{options.faults} faults"
            bar.update(task, completed=far.said, description=far.stage, figures=figures)
            await asyncio.wait([running], timeout=0.5)
    return await running


def _tell(verdict: Verdict, folder: Path, evidence: Evidence | None = None) -> int:
    evidence = evidence or Evidence.load(folder)
    faults = Counter(f"{fault.kind} {fault.target.partition('-')[0]}" for fault in evidence.faults)
    print(f"faults: {', '.join(f'{count} × {name}' for name, count in sorted(faults.items()))}")
    requests = sum(len(said.attempts) for said in evidence.said)
    print(f"messages: {len(evidence.said)}, requests for them: {requests}")
    print("\n".join(f"{count:>8}  {name}" for name, count in verdict.figures.items()))
    if not verdict.violations:
        print("proven: every point holds")
        return 0
    for violation in verdict.violations[:SHOWN]:
        print(f"VIOLATED {violation}")
    rules = Counter(violation.rule for violation in verdict.violations)
    print(f"{len(verdict.violations)} violations: {', '.join(f'{count} × {rule}' for rule, count in rules.most_common())}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.chaos", description="Kill anything at any time: is anything lost, or done twice?"
    )
    parser.add_argument("--seed", type=int, help="of everything random: faults, clients, the LLM's failures [a new one]")
    parser.add_argument("--turns", type=int, help=f"messages to send [{LONG['turns']}; quick: {QUICK['turns']}]")
    parser.add_argument("--kills", type=int, help=f"kills, freezes and restarts [{LONG['kills']}; quick: {QUICK['kills']}]")
    parser.add_argument("--clients", type=int, help=f"at once [{LONG['clients']}; quick: {QUICK['clients']}]")
    parser.add_argument("--quick", action="store_true", help="a run of about 40 s")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="leave logs and histories there [kept only where something is violated]"
    )
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="no run: judge the evidence in this folder again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
