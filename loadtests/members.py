"""One process of a split that a test starts, freezes, kills and starts again. Linux only: it finds children and left-overs through /proc.

It knows no role: a command, a way to tell that it serves, a log. Everything that belongs to one run carries the run's mark in its
environment, so that what is left over at the end can be found whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

READY_SECONDS = 90.0
LOOK_SECONDS = 0.05
MARK = "LOADTEST_RUN"
# Below the ports that the kernel gives to outgoing connections: one of those could take the port of a process that is down for a moment.
FIRST_PORT, PORTS = 10_000, 2_000
_PR_SET_PDEATHSIG = 1


class CannotRun(Exception):
    """Something that the run needs does not come up; the text is one line for a person."""


def steady_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that stays free while its process is down."""
    for _ in range(PORTS):
        port = random.randrange(FIRST_PORT, FIRST_PORT + PORTS)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port
    raise CannotRun(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free")


class Member:
    """A program and its present process. `environ` is all of the process's environment; `stop_signal` asks it to end in order."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        log: Path,
        ready: Callable[[], Awaitable[bool]],
        stop_signal: int = signal.SIGTERM,
        group: str | None = None,
    ) -> None:
        self.name, self.log = name, log
        self.group = group or name.partition("-")[0]
        self._command, self._environ, self._ready, self._stop_signal = list(command), dict(environ), ready, stop_signal
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises CannotRun when there is no process."""
        if self._child is None:
            raise CannotRun(f"{self.name} has not been started")
        return self._child.pid

    def running(self) -> bool:
        """Whether its process lives (frozen or not)."""
        return self._child is not None and self._child.poll() is None

    def spawn(self) -> None:
        """Starts the process without waiting for anything. Call it from the main thread: the kernel ends it with the thread that did."""
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                self._command,
                env=self._environ,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    async def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Returns when it serves. Raises CannotRun with the end of its log when it dies or time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running():
            if await self._ready():
                return
            await asyncio.sleep(LOOK_SECONDS)
        raise CannotRun(f"{self.name} does not serve; its log ends with:\n{self.tail()}")

    async def start(self, seconds: float = READY_SECONDS) -> None:
        """Starts it and waits until it serves, once more when it dies at once: what its predecessor held may not be free yet."""
        for tries in range(3):
            self.spawn()
            try:
                return await self.wait_ready(seconds)
            except CannotRun:
                if self.running() or tries == 2:
                    raise
                await asyncio.sleep(0.5)

    async def kill(self) -> None:
        """SIGKILL of the process and all that it has forked; returns when they are gone."""
        if self._child is not None:
            family = self._family()
            for pid in family:
                _signal(pid, signal.SIGKILL)
            await _ended(self._child)
            await _gone(family)

    async def stop(self, grace: float) -> int | None:
        """Asks it to end; the exit code, None when it had to be killed after `grace` seconds."""
        if self._child is None or self._child.poll() is not None:
            return 0
        family = self._family()
        self.thaw()
        self._child.send_signal(self._stop_signal)
        try:
            async with asyncio.timeout(grace):
                code = await _ended(self._child)
                await _gone(family)
                return code
        except TimeoutError:
            await self.kill()
            return None

    def freeze(self) -> None:
        """SIGSTOP of the whole family: connections stay open, nothing is answered."""
        for pid in self._family():
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: undoes `freeze`."""
        for pid in reversed(self._family()):
            _signal(pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _family(self) -> list[int]:
        """The process and what it has forked, parents first. PostgreSQL's back ends have sessions of their own: a process group is not
        enough."""
        if self._child is None or self._child.poll() is not None:
            return []
        of: dict[int, list[int]] = {}
        for pid, parent in _parents():
            of.setdefault(parent, []).append(pid)
        family = [self._child.pid]
        for pid in family:
            family += of.get(pid, [])
        return family


def marked(mark: str) -> list[tuple[int, str]]:
    """(pid, command line) of every process whose environment has the run's mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # gone, or another user's
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")))
    return found


def _parents() -> list[tuple[int, int]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found.append((int(folder.name), int(fields[1])))
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


async def _ended(child: subprocess.Popen[bytes]) -> int:
    while True:
        if (code := child.poll()) is not None:
            return code
        await asyncio.sleep(LOOK_SECONDS / 5)


async def _gone(pids: Sequence[int]) -> None:
    """Returns when none of them lives; a zombie that its foster parent has not reaped yet does not count."""
    while True:
        if not set(pids) & {pid for pid, _ in _parents()}:
            return
        await asyncio.sleep(LOOK_SECONDS / 5)


def _die_with_parent() -> Callable[[], None]:
    """What the child does between fork and exec: asks the kernel to end it when its parent dies, whatever of."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
