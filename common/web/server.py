"""Runs an ASGI app under uvicorn on sockets that are bound already: tells when it serves, says clearly why it cannot, drains on SIGTERM.

It knows no routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from common.web.admin_port import AdminPort
from common.web.http1 import Http1
from common.web.listening import CannotServe, Sockets
from common.web.middleware import FAREWELL_SECONDS

SOCKET_MESSAGE = 65_536  # bytes of one WebSocket message; clients have next to nothing to say on one
CLOSE = (b"connection", b"close")
KEEP_ALIVE_SECONDS = 75  # longer than Nginx keeps an idle upstream connection, so that Nginx is the one that closes


def serve(
    app: Any,
    sockets: Sockets,
    *,
    drain_seconds: float,
    on_drain: Callable[[], None],
    on_ready: Callable[[], None],
) -> None:
    """Serves until SIGINT or SIGTERM, then drains: `on_drain` first, no new connection, for a moment still requests on those that are open,
    each closed behind its reply; what runs then gets up to `drain_seconds`, then the app's lifespan ends. Where there
    is a socket of the operators', what is theirs is served on that one only.

    Raises what `startup_failure` saw when the app could not start.
    """
    config = uvicorn.Config(
        AdminPort(app, sockets.admin.getsockname()[1]) if sockets.admin else app,
        loop="uvloop",
        http=Http1,
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        ws_max_size=SOCKET_MESSAGE,
    )
    logging.getLogger("uvicorn.error").addFilter(_not_the_lifespan)
    server = _Server(config, on_drain, on_ready)
    with contextlib.suppress(SystemExit):  # uvicorn exits with 3 when the app cannot start; the reason is raised below
        server.run(sockets=[sock for sock in (sockets.api, sockets.unix, sockets.admin) if sock is not None])
    if not server.started:
        raise getattr(app.state, "startup_failure", None) or CannotServe("the server did not start")


def spare_the_collector() -> None:
    """What a service has loaded lives as long as the process, and requests leave few cycles: looking for garbage every 700 objects cost a
    tenth of a rule's answer and a quarter of an LLM turn."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(30_000, 20, 20)


@contextlib.contextmanager
def startup_failure(app: Any) -> Iterator[None]:
    """Around a lifespan: remembers why it failed, so that `serve` can raise it instead of a traceback in uvicorn's log."""
    try:
        yield
    except Exception as e:  # whatever it is: it is raised again, here and by `serve`
        app.state.startup_failure = e
        raise


def _not_the_lifespan(record: logging.LogRecord) -> bool:
    return record.module != "on"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None], on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._on_ready = on_ready
        self._leave_at: float | None = None
        self._listening: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening = list(sockets or ())
        if self.started:
            spare_the_collector()
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the farewell; a second one ends it at once, a third does not wait for anything."""
        self._on_drain()
        if self._leave_at is None:
            self._leave_at = time.monotonic() + FAREWELL_SECONDS
            self.config.encoded_headers.append(CLOSE)  # what the server adds to every reply, once a second anew
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
            return
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # a drained process has ended well: exit code 0, not the signal

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None:
            await self._stop_listening()
            if time.monotonic() >= self._leave_at or not self.server_state.connections:
                self.should_exit = True
        return await super().on_tick(counter)

    async def _stop_listening(self) -> None:
        """From here on connections are refused, and go elsewhere. The kernel has made some that wait to be accepted, and would reset them
        with the requests that they may have brought: they are served, too."""
        waiting = [connection for sock in self._listening for connection in _accepted(sock)]
        for server in self.servers:
            server.close()
        self._listening.clear()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            with contextlib.suppress(OSError):  # it is gone again
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Http1:
        return Http1(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accepted(sock: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):  # nothing more waits
        while True:
            yield sock.accept()[0]
