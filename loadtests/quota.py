"""A share of a core for each of several processes, without Docker: a cgroup of version 2 or 1 where one can be written, else SIGSTOP and
SIGCONT in turns, as cpulimit does it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PERIOD = 0.02  # seconds; short, so that a replica that has used its share waits no longer than a request may take
V2, V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")
_TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def limited(pids: Sequence[int], share: float) -> Iterator[str]:
    """Each process, with its threads, gets at most that share of one core. Gives the words for how."""
    for way in (_V2, _V1):
        with contextlib.ExitStack() as stack:
            try:
                for pid in pids:
                    stack.enter_context(way(pid, share))
            except OSError:
                continue
            yield way.words
            return
    with contextlib.ExitStack() as stack:
        for pid in pids:
            stack.enter_context(_Turns(pid, share))
        yield _Turns.words


class _V2:
    """A cgroup of version 2 of its own."""

    words = f"cgroup v2, cpu.max over {PERIOD * 1000:g} ms"

    def __init__(self, pid: int, share: float) -> None:
        self._pid, self._share = pid, share
        self._group = V2 / f"loadsplit-{secrets.token_hex(6)}"

    def _limit(self) -> None:
        (self._group / "cpu.max").write_text(f"{int(self._share * PERIOD * 1e6)} {int(PERIOD * 1e6)}")

    def __enter__(self) -> None:
        if not (self._group.parent / "cgroup.procs").exists():
            raise OSError(f"{self._group.parent} is no cgroup")
        self._group.mkdir()
        try:
            self._limit()
            (self._group / "cgroup.procs").write_text(str(self._pid))
        except OSError:
            self._group.rmdir()
            raise

    def __exit__(self, *_: object) -> None:
        """The process goes back to the root group, where it is not limited."""
        with contextlib.suppress(OSError):
            (self._group.parent / "cgroup.procs").write_text(str(self._pid))
        with contextlib.suppress(OSError):
            self._group.rmdir()


class _V1(_V2):
    """The same of version 1."""

    words = f"cgroup v1, cpu.cfs_quota_us over {PERIOD * 1000:g} ms"

    def __init__(self, pid: int, share: float) -> None:
        super().__init__(pid, share)
        self._group = V1 / self._group.name

    def _limit(self) -> None:
        (self._group / "cpu.cfs_period_us").write_text(str(int(PERIOD * 1e6)))
        (self._group / "cpu.cfs_quota_us").write_text(str(int(self._share * PERIOD * 1e6)))


class _Turns:
    """A thread that stops the process whenever it has had more than its share, and lets it go on when time has caught up."""

    words = "SIGSTOP and SIGCONT in turns"

    def __init__(self, pid: int, share: float) -> None:
        self._pid, self._share = pid, share
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)

    def _run(self) -> None:
        began, used = time.monotonic(), self._cpu()
        while not self._over.wait(PERIOD):
            ahead = (self._cpu() - used) - self._share * (time.monotonic() - began)
            try:
                os.kill(self._pid, signal.SIGSTOP if ahead > 0 else signal.SIGCONT)
            except ProcessLookupError:
                return

    def _cpu(self) -> float:
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS
