"""`locust -f loadtests/locustfile.py --host URL`: the users, and a readable summary at the end.

It counts what this process sees: with Locust's distributed mode use Locust's own figures.
"""

from __future__ import annotations

import time
from typing import Any

from locust import events

from loadtests.summary import Samples, Summary
from loadtests.users import AgentTurnUser, RuleUser, StreamUser

__all__ = ["AgentTurnUser", "RuleUser", "StreamUser"]


class Recorder:
    """Listens to Locust's events and prints the summary when it quits."""

    def __init__(self) -> None:
        self.summary = Summary()
        self.started = self.ended = time.monotonic()

    def start(self, **_: Any) -> None:
        """The clock begins with the first user."""
        self.summary = Summary()
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
        else:
            samples.fail(str(exception))

    def print(self, **_: Any) -> None:
        """The table, on standard output."""
        seconds = self.ended - self.started
        print(f"\nload for {seconds:.0f} s\n\n{self.summary.table(seconds)}\n", flush=True)


@events.init.add_listener
def record(environment: Any, **_: Any) -> None:
    """Hangs a recorder into a new Locust environment."""
    recorder = Recorder()
    environment.events.test_start.add_listener(recorder.start)
    environment.events.request.add_listener(recorder.request)
    environment.events.quit.add_listener(recorder.print)  # after Locust's own figures
