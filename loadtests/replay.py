"""`locust -f loadtests/replay.py --host URL --arrivals CSV --speed 2 -t 60s`: streams begin when the file says, with its token counts.

Give the LLM simulator the profile of `python -m loadtests.replay --profile FILE`. With several workers each takes every n-th arrival
(`--replay-workers N`).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events, task

from loadtests import recorder
from loadtests.arrivals import made_arrivals, profile, read_arrivals, within
from loadtests.users import ApiUser, Streamed

__all__ = ["ReplayUser", "recorder"]
MADE, HOUR = 5_000, 3_600.0


@events.init_command_line_parser.add_listener
def add_options(parser: Any, **_: Any) -> None:
    """Options of this file."""
    parser.add_argument("--arrivals", default="", help="a CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens; else made ones")
    parser.add_argument("--speed", type=float, default=1.0, help="so many times as fast as the file")
    parser.add_argument("--replay-workers", type=int, default=1, help="among how many workers the arrivals are divided")


class ReplayUser(ApiUser, Streamed):
    """Begins every stream at its time, whatever the others do: one such user a process is enough."""

    fixed_count = 1

    def on_start(self) -> None:
        """Reads the arrivals."""
        options = self.environment.parsed_options
        arrivals = read_arrivals(Path(options.arrivals)) if options.arrivals else made_arrivals(MADE)
        index = getattr(self.environment.runner, "worker_index", 0)
        self._arrivals = within(arrivals, HOUR, options.speed)[index :: options.replay_workers]

    @task
    def replay(self) -> None:
        """All of them, then nothing more."""
        began, open_ = time.monotonic(), gevent.pool.Group()
        for arrival in self._arrivals:
            pause = began + arrival.at - time.monotonic()
            if pause > 0:
                gevent.sleep(pause)
            open_.spawn(self.streamed, arrival.message(), "replayed stream")
        open_.join()
        self.stop()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--profile":
        sys.exit("usage: python -m loadtests.replay --profile FILE")
    Path(sys.argv[2]).write_text(json.dumps(profile(), indent=1))
