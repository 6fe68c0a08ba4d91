"""One child process of a supervisor: started, watched, started again when it dies, stopped by its signal. It knows no tier.

It has a session of its own, so that Ctrl-C reaches only the supervisor, which then stops the children in order; and the kernel ends it
when the supervisor dies without having stopped it (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
STEADY_SECONDS = 30.0  # a child that lived so long begins with the first pause again
_PR_SET_PDEATHSIG = 1

Say = Callable[[str], None]


class StartFailed(Exception):
    """Something keeps the split from coming up; `code` is the exit code of the command."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `ready` tells whether it serves; `log` is a file for its output, else it is printed under the program's name, or, where
    it `speaks` for itself, goes where the supervisor's own goes; `user` is for a root supervisor. `inherits` are open files that the
    process gets under the same numbers; `died` is called when it ended unasked, before it is started again."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    environ: Mapping[str, str] | None = None
    stop_signal: int = signal.SIGTERM
    log: Path | None = None
    user: str | None = None
    speaks: bool = False
    inherits: tuple[int, ...] = ()
    died: Callable[[], None] | None = None


class Child:
    """A program's process. `start`, then `wait_ready`, then `keep` as a task; `retire` before `stop`."""

    def __init__(self, program: Program, say: Say) -> None:
        self.program = program
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._printing: asyncio.Task[None] | None = None
        self._retired = asyncio.Event()
        self._renewing, self._renewed = False, asyncio.Event()

    @property
    def name(self) -> str:
        """The program's name."""
        return self.program.name

    @property
    def pid(self) -> int | None:
        """The process id of the present process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts the process. Raises StartFailed where it cannot be started at all."""
        program = self.program
        reading, writing = _output(program)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT if writing is not None else None,
                env=dict(program.environ) if program.environ is not None else None,
                start_new_session=True,
                pass_fds=program.inherits,
                preexec_fn=_die_with_parent(program.stop_signal),
                **_identity(program.user),
            )
        except OSError as e:
            if reading is not None:
                os.close(reading)
            raise StartFailed(f"{self.name} cannot be started: {e}") from None
        finally:
            if writing is not None:
                os.close(writing)
        if reading is not None:
            self._printing = asyncio.create_task(self._print(reading))

    async def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Returns once the program serves. Raises StartFailed when it ends before, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not await self.program.ready():
            if self._process is None or self._process.returncode is not None:
                await self._finish_printing()
                code = self._process.returncode if self._process else 1
                where = f"; see {self.program.log}" if self.program.log else ""
                raise StartFailed(f"{self.name} ended at start ({_how(code)}){where}", 2 if code == 2 else 1)
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} is not ready after {seconds:g} s", 1)
            await asyncio.sleep(0.05)

    async def keep(self) -> None:
        """Starts the program again whenever it ends, with growing pauses, until it is retired."""
        pause = FIRST_PAUSE
        while self._process is not None:
            began = time.monotonic()
            code = await self._process.wait()
            if self._retired.is_set():
                return
            # What it forked (Nginx workers) would go on holding its port.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._finish_printing()
            if self._renewing:
                self._renewing, pause = False, FIRST_PAUSE
                await self._start_again()
                self._renewed.set()
                continue
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            if self.program.died:
                self.program.died()
            self._say(f"{self.name} ended ({_how(code)}); starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), pause)
                return
            pause = min(2 * pause, LONGEST_PAUSE)
            await self._start_again()

    async def _start_again(self) -> None:
        try:
            await self.start()
        except StartFailed as e:
            self._say(str(e))  # the process is the ended one still: `keep` comes here again after its pause

    async def renew(self, grace: float) -> None:
        """Asks the process to end, and returns once the one that `keep` starts in its place serves. Raises StartFailed when it does not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._renewing = True
        self._renewed.clear()
        process.send_signal(self.program.stop_signal)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self._say(f"{self.name} was killed: it did not end in time")
            process.kill()
            await process.wait()
        async with asyncio.timeout(READY_SECONDS):
            await self._renewed.wait()
        await self.wait_ready()

    def tell(self, number: int) -> None:
        """Sends a signal, where there is still somebody to hear it."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def retire(self) -> None:
        """From now on its end is no accident."""
        self._retired.set()

    async def stop(self, grace: float, hurry: asyncio.Event) -> bool:
        """Sends the stop signal, waits up to `grace` seconds or for `hurry`, then kills. Whether it ended by itself."""
        self.retire()
        process = self._process
        if process is None or process.returncode is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.program.stop_signal)
        ended, hurried = asyncio.create_task(process.wait()), asyncio.create_task(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        in_time = ended.done()
        if not in_time:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended
        await self._finish_printing()
        return in_time

    async def _print(self, pipe: int) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", buffering=0)
        )
        rest = b""
        try:
            while data := await stream.read(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._say(f"{self.name} | {line.decode(errors='replace')}")
        finally:
            transport.close()
        if rest:
            self._say(f"{self.name} | {rest.decode(errors='replace')}")

    async def _finish_printing(self) -> None:
        """Lets the last lines out. A grandchild may hold the pipe open, so there is a limit."""
        if printing := self._printing:  # `keep` and `stop` may both be here
            await asyncio.wait({printing}, timeout=1)
            printing.cancel()


def _output(program: Program) -> tuple[int | None, int | None]:
    """What to read its lines from and what it writes to; None for nothing, and for what the supervisor itself writes to."""
    if program.log:
        return None, os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # A pipe of our own: asyncio's would keep `wait` waiting for a grandchild that holds it, such as a worker of a killed Nginx.
    return (None, None) if program.speaks else os.pipe()


def _identity(user: str | None) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []} if user else {}


def _die_with_parent(number: int) -> Callable[[], None] | None:
    """What the child does between fork and exec: asks the kernel for this signal when its parent dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork as little as possible happens
    return lambda: prctl(_PR_SET_PDEATHSIG, number)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"code {code}"
