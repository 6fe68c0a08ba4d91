"""Processes that a load test starts and surely ends: free ports, readiness, a log to show when something does not come up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Process:
    """A child with its own process group; leaving the context ends it with SIGTERM, then SIGKILL after `grace` seconds."""

    def __init__(self, command: Sequence[str], *, log: Path, cpu: int | None = None, grace: float = 25) -> None:
        self.command = [*(["taskset", "-c", str(cpu)] if cpu is not None else []), *command]
        self.log = log
        self._grace = grace

    def __enter__(self) -> Process:
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(self.command, stdout=out, stderr=out, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGTERM)
            try:
                self._child.wait(self._grace)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def ended(self) -> bool:
        """Whether the child is gone."""
        return self._child.poll() is not None

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def wait_ready(url: str, process: Process, seconds: float = 90) -> None:
    """Returns when the URL answers 200. Raises RuntimeError with the log's end when the process dies or time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not process.ended():
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 a loopback URL that this module's callers make
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{process.command[0]} did not become ready:\n{process.tail()}")


def wait_listening(port: int, process: Process, seconds: float = 30) -> None:
    """Returns when something accepts connections on the port. Raises RuntimeError like `wait_ready`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not process.ended():
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.command[0]} does not listen on {port}:\n{process.tail()}")
