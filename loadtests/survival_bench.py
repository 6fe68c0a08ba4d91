"""What survival costs and how long it takes: recovery after kill -9, replay of a stream from each of its sources, durability of a turn.

`python -m loadtests.survival_bench [--only recovery|replay|durability] [--out FILE]` starts private stores with durable commits, the
simulated LLM and two heavy processes, which are asked as the rule tier would ask them. Leases are the default ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from loadtests import survival_rows
from loadtests.members import CannotRun

Row = dict[str, Any]
PARTS: dict[str, Callable[[Path, argparse.Namespace], Awaitable[list[Row]]]] = {
    "recovery": survival_rows.recovery,
    "replay": survival_rows.replay,
    "durability": survival_rows.durability,
}


def main() -> int:
    """Measures and prints; writes all figures to --out."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.survival_bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="just this part")
    parser.add_argument("--kills", type=int, default=15, help="kills of a node that runs turns")
    parser.add_argument("--streams", type=int, default=200, help="streams that are replayed from each source")
    parser.add_argument("--turns", type=int, default=150, help="turns of each kind, one after another, for the cost of durability")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which nodes are killed")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    options = parser.parse_args()
    random.seed(options.seed)
    try:
        found = asyncio.run(measure(options))
    except CannotRun as e:
        print(f"could not run: {e}", file=sys.stderr)
        return 2
    report(found, options)
    return 0


async def measure(options: argparse.Namespace) -> dict[str, list[Row]]:
    """Every part that is wanted, in a folder of its own."""
    found = {}
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="loadsplit-survival-") as folder:
            found[name] = await part(Path(folder), options)
    return found


def report(found: dict[str, list[Row]], options: argparse.Namespace) -> None:
    """A table for each part."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {load}"
    print(f"\n{machine}; PostgreSQL with durable commits, Redis")
    for part, rows in found.items():
        print(f"\n{part}")
        names = [name for name in rows[0] if name not in ("samples", "statements")]
        widths = [max(len(name), *(len(_text(row[name])) for row in rows)) for name in names]
        print("  ".join(f"{name:<{width}}" for name, width in zip(names, widths, strict=True)))
        for row in rows:
            print("  ".join(f"{_text(row[name]):<{width}}" for name, width in zip(names, widths, strict=True)))
    if options.out:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        options.out.write_text(json.dumps({"machine": machine, "options": given, "rows": found}, indent=1))


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
