"""Several processes behind one port: starts them, watches them, restarts one after the other, drains them, and adds up their metrics.

Each listens on a socket of its own that is bound to the same port (SO_REUSEPORT), and the kernel deals out the connections. The sockets
belong to the supervisor, so that a worker that is replaced leaves no connection behind that nobody accepts. It knows no tier.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.settings import CommonSettings, SettingsError
from common.telemetry.metrics import Metrics
from common.web.children import Child, Program, StartFailed
from common.web.listening import ADMIN_PORT, CannotServe, bind_shared, check_admin_port, join_shared
from common.web.siblings import Place, Sibling
from common.web.worker_pages import WorkerPages

AS_WORKER = "--as-worker"
KILL_SECONDS = 10.0  # what a worker gets to close its stores, when its drain is over
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """A port that the workers share, and what set it."""

    host: str
    port: int
    option: str


def supervise(settings: CommonSettings, host: str, port: int, admin_port: int | None = None, uds: Path | None = None) -> int:
    """Runs as many workers as the settings say, each by this process's own command line and AS_WORKER, until SIGTERM or SIGINT; the exit
    code. SIGHUP replaces one after the other. Raises CannotServe or SettingsError before anything starts."""
    if settings.redis_url.startswith("memory:"):
        raise SettingsError(
            f"LOADSPLIT_WORKERS: {settings.workers} processes need LOADSPLIT_REDIS_URL: they share sessions and limits through it"
        )
    if uds is not None:
        raise CannotServe("--uds: one process listens on a unix socket: leave --workers at 1, or give several processes a socket each")
    check_admin_port(admin_port, port)
    shared = [Listening(host, port, "--port")]
    if admin_port is not None:
        shared.append(Listening(host, admin_port, ADMIN_PORT))
    with contextlib.ExitStack() as stack:
        rows = [bind_shared(one.host, one.port, settings.workers, one.option) for one in shared]
        sockets = [[stack.enter_context(sock) for sock in column] for column in zip(*rows, strict=True)]
        return asyncio.run(_Workers(sockets, shared, settings.drain_seconds).run())


def join(place: Place | None, metrics: Metrics) -> Callable[[], None]:
    """What a process does when it serves: as one of several workers it tells its supervisor."""
    return Sibling(place, metrics).join if place else lambda: None


class _Workers:
    """One place for each worker: its sockets, and the process that has them."""

    def __init__(self, sockets: list[list[socket.socket]], shared: list[Listening], drain_seconds: float) -> None:
        self._sockets, self._shared, self._drain_seconds = sockets, shared, drain_seconds
        self._pages = WorkerPages()
        self._line = ""
        self._at: dict[int, Child] = {}
        self._living: list[Child] = []
        self._keeping: set[asyncio.Task[None]] = set()
        self._replaced: int | None = None
        self._stop, self._rolling = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Up, until a signal, down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._rolling.set)
        folder = Path(tempfile.mkdtemp(prefix="loadsplit-workers-"))
        self._line = str(folder / "line")
        try:
            async with await self._pages.listen(self._line):
                return await self._run()
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _run(self) -> int:
        starting, stopped = asyncio.create_task(self._start()), asyncio.create_task(self._stop.wait())
        tasks: list[asyncio.Task[Any]] = [starting, stopped]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                tasks.append(asyncio.create_task(self._roll()))
                await stopped
        except StartFailed as e:
            if e.code != 2:  # else the worker itself has said why, in one line
                log.error("%s", e)
            return e.code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ended = await self._end()
        return 0 if ended else 1

    async def _start(self) -> None:
        """The first alone: what keeps it from starting keeps all of them, and is told once."""
        await self._add(0)
        others = [asyncio.create_task(self._add(index)) for index in range(1, len(self._sockets))]
        try:
            await asyncio.gather(*others)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        log.info("%d workers serve", len(self._sockets))

    async def _add(self, index: int) -> None:
        """Starts a process at a place and, when it serves, lets it be the place's. Raises StartFailed."""
        child = self._child(index)
        self._living.append(child)
        await child.start()
        await child.wait_ready()
        self._at[index] = child
        task = asyncio.create_task(child.keep())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    def _child(self, index: int) -> Child:
        sockets = tuple(sock.fileno() for sock in self._sockets[index])
        command = (sys.executable, *sys.orig_argv[1:], AS_WORKER, str(Place(sockets, self._line)))

        async def ready() -> bool:
            return self._pages.serves(child.pid)

        def died() -> None:
            self._pages.restarts += 1
            self._renew_sockets(index)

        child = Child(Program(f"worker-{index + 1}", command, ready, speaks=True, inherits=sockets, died=died), log.warning)
        return child

    def _renew_sockets(self, index: int) -> None:
        """Nobody accepts what waits at the sockets of a dead worker: their place is taken by ones that do not listen before the next one
        does. While it is being replaced there is already another that accepts."""
        if self._replaced == index or self._stop.is_set():
            return
        for sock, shared in zip(self._sockets[index], self._shared, strict=True):
            try:
                with join_shared(shared.host, sock.getsockname()[1], shared.option) as fresh:
                    os.dup2(fresh.fileno(), sock.fileno())
            except (CannotServe, OSError) as e:
                log.warning("connections wait for the next worker-%d: %s", index + 1, e)

    async def _roll(self) -> None:
        """At each SIGHUP: a new process beside each worker, on the same sockets; when it serves, the old one drains."""
        while True:
            await self._rolling.wait()
            self._rolling.clear()
            try:
                for index in range(len(self._sockets)):
                    await self._replace(index)
                log.warning("%d workers were replaced, one after the other", len(self._sockets))
            except StartFailed as e:
                log.error("the rolling restart stopped, the old workers go on: %s", e)

    async def _replace(self, index: int) -> None:
        old, self._replaced = self._at[index], index
        try:
            await self._add(index)
        except StartFailed:
            await self._retire(self._living[-1], 0)
            raise
        finally:
            self._replaced = None
        await self._retire(old, self._drain_seconds + KILL_SECONDS)

    async def _retire(self, child: Child, grace: float) -> bool:
        in_time = await child.stop(grace, asyncio.Event())
        if child in self._living:
            self._living.remove(child)
        if not in_time:
            log.warning("%s was killed: it did not end in time", child.name)
        return in_time

    async def _end(self) -> bool:
        """Drains all at once. Whether each ended by itself."""
        for sockets in self._sockets:  # the workers have them too: as soon as these let go, connections are refused
            for sock in sockets:
                sock.close()
        in_time = await asyncio.gather(*(self._retire(child, self._drain_seconds + KILL_SECONDS) for child in list(self._living)))
        await asyncio.gather(*self._keeping)
        return all(in_time)

    def _signalled(self) -> None:
        """The first signal drains, further ones hurry the workers as they would one that runs alone."""
        if self._stop.is_set():
            for child in self._living:
                child.tell(signal.SIGTERM)
        self._stop.set()
