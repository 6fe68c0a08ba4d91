"""Reference: pydocket (Redis Streams) as a queue, with tasks that sleep and do nothing else: what a queue of its own would give.

`python -m loadtests.references.docket_worker --redis redis://… [--tasks 300 --slots 8 --work-ms 10]` prints one JSON object: for each
check interval tasks a second, and the median and the slowest of the times that adding one took. Needs `pip install pydocket`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from docket import Docket, Worker

INTERVALS = (0.25, 0.05, 0.01)  # seconds; the first one is the default


async def work(milliseconds: float) -> None:
    """The task."""
    await asyncio.sleep(milliseconds / 1000)


async def measure(redis: str, interval: float, tasks: int, slots: int, milliseconds: float) -> dict[str, float]:
    """All tasks added, then worked off by one worker."""
    async with Docket(name=f"bench-{uuid4().hex}", url=redis) as docket:
        docket.register(work)
        times = []
        for number in range(tasks):
            began = time.perf_counter()
            await docket.add(work, key=f"task-{number}")(milliseconds)
            times.append(time.perf_counter() - began)
        pause = timedelta(seconds=interval)
        async with Worker(docket, concurrency=slots, minimum_check_interval=pause, scheduling_resolution=pause) as worker:
            began = time.perf_counter()
            await worker.run_until_finished()
            took = time.perf_counter() - began
    return {"tasks_a_second": tasks / took, "add_p50_ms": statistics.median(times) * 1000, "add_max_ms": max(times) * 1000}


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Each interval in turn."""
    return {str(i): await measure(options.redis, i, options.tasks, options.slots, options.work_ms) for i in INTERVALS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m loadtests.references.docket_worker", description=__doc__)
    parser.add_argument("--redis", required=True, help="redis:// URL")
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--work-ms", type=float, default=10)
    print(json.dumps(asyncio.run(main(parser.parse_args()))))
