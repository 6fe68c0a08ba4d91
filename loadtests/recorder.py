"""Listens to a Locust run and prints a readable summary when it quits; with `--summary-json FILE` the figures go there as well.

It counts what this process sees: with Locust's distributed mode each worker's own share, and Locust's own figures are the master's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from locust import events

from loadtests.summary import Samples, Summary


class Recorder:
    """The samples of a run. `steps` are [second, kind, milliseconds] of what went well, kept only for a JSON file."""

    def __init__(self, out: Path | None = None) -> None:
        self._out = out
        self.summary = Summary()
        self.steps: list[tuple[float, str, float]] = []
        self.started = self.ended = time.monotonic()

    def start(self, **_: Any) -> None:
        """The clock begins with the first user."""
        self.summary, self.steps = Summary(), []
        self.started = self.ended = time.monotonic()

    def request(self, request_type: str, name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
        """One request or timing."""
        if name == "open a stream":
            return  # the whole stream is counted, under its own name
        rows = self.summary.timings if request_type == "TIMING" else self.summary.requests
        samples = rows.setdefault(name, Samples())
        self.ended = time.monotonic()
        if exception is None:
            samples.add(response_time)
            if self._out is not None:
                self.steps.append((round(self.ended - self.started, 2), name, round(response_time, 2)))
        else:
            samples.fail(str(exception))

    def print(self, **_: Any) -> None:
        """The table, on standard output."""
        seconds = self.ended - self.started
        print(f"\nload for {seconds:.0f} s\n\n{self.summary.table(seconds)}\n", flush=True)
        if self._out is not None:
            self._out.write_text(json.dumps({"seconds": seconds, "kinds": self.summary.figures(seconds), "steps": self.steps}))


@events.init_command_line_parser.add_listener
def add_options(parser: Any, **_: Any) -> None:
    """The options of every locustfile here."""
    parser.add_argument("--summary-json", default="", help="a file for the figures of this process")


@events.init.add_listener
def record(environment: Any, **_: Any) -> None:
    """Hangs a recorder into a new Locust environment."""
    out = getattr(environment.parsed_options, "summary_json", "")
    recorder = Recorder(Path(out) if out else None)
    environment.events.test_start.add_listener(recorder.start)
    environment.events.request.add_listener(recorder.request)
    environment.events.quit.add_listener(recorder.print)  # after Locust's own figures
