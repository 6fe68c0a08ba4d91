"""How long matching takes, folding included, on messages that it has not seen before; how long rules take to compile, and their memory.

`python -m standalone.commands.matching_speed --rules 1000 [--messages CSV]` prints one JSON object; `loadtests.bench` runs it on a core.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.workflow.schema import Flow, Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.match import Matcher
from loadtests.workflows import made_messages, read_messages

MADE = 6000
PAGE_KB = 4
_WORD = re.compile(r"[a-z]{4,}")


def rules_from(messages: Sequence[str], count: int, seed: int = 1) -> list[str]:
    """So many patterns out of the words of messages: half of them `word.*word`, the others a phrase of two words in a row."""
    chance = random.Random(seed)
    words = [found for found in (_WORD.findall(message.lower()) for message in messages) if len(found) > 1]
    patterns: dict[str, None] = {}
    number = 0
    while len(patterns) < count:
        said = chance.choice(words)
        at = chance.randrange(len(said) - 1)
        one, two = said[at], said[at + 1]
        if number % 2:
            one, two = chance.choice(said), chance.choice(chance.choice(words))
        pattern = f"{one}.*{two}" if number % 2 else f"{one} {two}"
        if pattern in patterns:
            pattern = f"{pattern} {number}" if number % 2 else f"{pattern}{number}"
        patterns[pattern] = None
        number += 1
    return list(patterns)


def measure(patterns: Sequence[str], messages: Sequence[str]) -> dict[str, float]:
    """Figures of these rules on these messages, each matched once; the mean is of CPU time, percentiles are of the clock. The first tenth
    warms up and is not counted."""
    flows = tuple(Flow(flow_id=f"r{n}", trigger_patterns=(p,), response_template="x") for n, p in enumerate(patterns))
    workflow = Workflow(agent_id="bench", flows=flows)
    before, began = _resident_mb(), time.perf_counter()
    matcher = compile_rules(workflow)
    compiled = time.perf_counter() - began
    warm = len(messages) // 10
    for message in messages[:warm]:
        matcher.match(message)
    cpu = time.thread_time()
    times, hits = _times(matcher, messages[warm:])
    cpu = time.thread_time() - cpu
    return {
        "rules": len(patterns),
        "messages": len(times),
        "hits": hits,
        "compile_s": compiled,
        "memory_mb": _resident_mb() - before,
        "mean_us": cpu / len(times) * 1e6,
        "p50_us": statistics.median(times),
        "p99_us": sorted(times)[int(len(times) * 0.99)],
    }


def _times(matcher: Matcher, messages: Sequence[str]) -> tuple[list[float], int]:
    clock, times, hits = time.perf_counter_ns, [], 0
    for message in messages:
        began = clock()
        found = matcher.match(message)
        times.append((clock() - began) / 1000)
        hits += found is not None
    return times, hits


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB / 1024


def main() -> int:
    """Measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m standalone.commands.matching_speed", description=__doc__)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--messages", type=Path, help="a CSV with the columns text,category: half of it for the rules, half to be matched")
    options = parser.parse_args()
    try:
        messages = read_messages(options.messages) if options.messages else made_messages(MADE)
    except (OSError, ValueError) as e:
        print(f"matching_speed: {e}", file=sys.stderr)
        return 2
    random.Random(1).shuffle(messages)
    half = len(messages) // 2
    print(json.dumps(measure(rules_from(messages[:half], options.rules), messages[half:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
