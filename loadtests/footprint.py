"""What a rule and an LLM turn leave behind and ask for: bytes in Redis and PostgreSQL, rows, commands and statements. The figures of
docs/scaling.md.

`python -m loadtests.footprint [--turns 1000] [--out FILE]` asks so many of each kind in sessions of their own, one after another, and looks
at the stores before and after. What the tiers do at rest is measured over the same time and taken off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from loadtests import asking
from loadtests.programs import json_of
from loadtests.rows.stage import text
from loadtests.stores_seen import redis, rows
from loadtests.topologies import Running, Topology, start
from loadtests.workflows import STATIC, TURN

SETTLE = 3.0  # seconds within which the journal has moved into the database
TABLES = "SELECT relname, n_live_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables"
STATEMENTS = "SELECT sum(xact_commit), sum(tup_inserted), sum(tup_updated) FROM pg_stat_database WHERE datname = 'postgres'"


def look(running: Running) -> dict[str, float]:
    """Everything that is counted, so far."""
    found = {"Redis keys": float(redis(running.redis_port, "DBSIZE").split()[-1])}
    for line in redis(running.redis_port, "INFO", "memory").splitlines():
        if line.startswith("used_memory:"):
            found["Redis bytes"] = float(line.partition(":")[2])
    found["Redis commands"] = sum(
        float(line.partition("calls=")[2].partition(",")[0])
        for line in redis(running.redis_port, "INFO", "commandstats").splitlines()
        if line.startswith("cmdstat_")
    )
    rows(running.database, "SELECT pg_stat_force_next_flush()")
    commits, inserted, updated = rows(running.database, STATEMENTS)[0]
    found |= {"PostgreSQL commits": float(commits), "rows inserted": float(inserted), "rows updated": float(updated)}
    found["database bytes"] = sum(float(size) for _, _, size in rows(running.database, TABLES))
    return found


def each(before: Mapping[str, float], after: Mapping[str, float], rest: Mapping[str, float], share: float, count: int) -> dict[str, float]:
    """What one of so many has added; `rest` is what a time at rest adds, of which the load lasted that share."""
    return {name: (after[name] - before[name] - share * rest[name]) / count for name in before}


def measure(folder: Path, turns: int) -> dict[str, dict[str, float]]:
    """Rules, then LLM turns in new sessions, then LLM turns in the same ones."""
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        running = start(stack, folder, Topology(rules=100).unpinned())
        asked(running, TURN, 20, "warm")
        first, began = look(running), time.monotonic()
        time.sleep(2 * SETTLE)
        second, at_rest = look(running), time.monotonic() - began
        rest = {name: second[name] - first[name] for name in first}
        for name, message, sessions in (
            ("rule", STATIC, "rule"),
            ("LLM turn, new session", TURN, "turn"),
            ("LLM turn, later", TURN, "turn"),
        ):
            before, began = look(running), time.monotonic()
            asked(running, message, turns, sessions)
            time.sleep(SETTLE)
            found[name] = each(before, look(running), rest, (time.monotonic() - began) / at_rest, turns)
    return found


def asked(running: Running, message: str, count: int, sessions: str) -> None:
    """So many, each in a session of its own. Raises RuntimeError when one is not answered."""
    command = asking.command(running.port, message, 120, connections=4, sessions=count, cpu=None)
    statuses = [status for _, _, status in json_of([*command, "--count", str(count), "--prefix", f"{sessions}-"])["samples"]]
    if statuses.count(200) != count:
        raise RuntimeError(f"{count - statuses.count(200)} of {count} were not answered")


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.footprint", description=__doc__)
    parser.add_argument("--turns", type=int, default=1000, help="of each kind")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadsplit-footprint-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), options.turns)
    kinds = list(found)
    print("| each | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
    for name in found[kinds[0]]:
        print(f"| {name} | " + " | ".join(text(round(found[kind][name], 2)) for kind in kinds) + " |")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
