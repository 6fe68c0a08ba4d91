"""Runs an ASGI app under uvicorn: binds before anything else starts, says clearly why it cannot, drains on SIGTERM.

It knows no routes. Without API keys a server listens on loopback only, unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.web.admin_port import AdminPort
from common.web.corked import Corked
from common.web.middleware import FAREWELL_SECONDS
from common.web.sse import CUT

SOCKET_MESSAGE = 65_536  # bytes of one WebSocket message; clients have next to nothing to say on one
UNREAD_MS = 90_000
ADMIN_PORT = "LOADSPLIT_ADMIN_PORT"
CLOSE = (b"connection", b"close")
KEEP_ALIVE_SECONDS = 75  # longer than Nginx keeps an idle upstream connection, so that Nginx is the one that closes


class CannotServe(Exception):
    """The server cannot start; the text is one line for the operator."""


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A bound socket, not yet listening; `option` is what said the port. Raises CannotServe when it is in use or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it: the kernel ends a connection whose other end takes nothing
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    try:
        sock.bind((host, port))
    except OSError as e:
        sock.close()
        if e.errno == errno.EADDRINUSE:
            raise CannotServe(f"port {port} on {host} is in use: stop what listens there, or choose another with {option}") from None
        raise CannotServe(f"cannot listen on {host}:{port}: {e.strerror}") from None
    except OverflowError:
        sock.close()
        raise CannotServe(f"{option} must be from 1 to 65535, not {port}") from None
    return sock


@contextlib.contextmanager
def bind_admin(host: str, port: int | None, api_port: int) -> Iterator[socket.socket | None]:
    """A bound socket of LOADSPLIT_ADMIN_PORT while the context lasts, None where there is to be none. Raises CannotServe."""
    if port is None:
        yield None
        return
    if port == api_port:
        raise CannotServe(f"{ADMIN_PORT}: {port} is the port of the API, choose another")
    with bind(host, port, ADMIN_PORT) as sock:
        yield sock


def require_safe_host(host: str, *, has_keys: bool, insecure: bool) -> None:
    """Raises CannotServe for a public address without API keys."""
    if has_keys or insecure or _is_loopback(host):
        return
    raise CannotServe(
        f"no API keys are configured, so only a loopback address may be served, not {host}: "
        "set LOADSPLIT_API_KEYS, or say --insecure when something in front checks callers"
    )


def serve(
    app: Any,
    sock: socket.socket,
    *,
    drain_seconds: float,
    on_drain: Callable[[], None],
    on_ready: Callable[[], None],
    admin: socket.socket | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then drains: `on_drain` first, no new connection, for a moment still requests on those that are open,
    each closed behind its reply; what runs then gets up to `drain_seconds`, then the app's lifespan ends. With `admin` what is the
    operators' is served on that socket only.

    Raises what `startup_failure` saw when the app could not start.
    """
    config = uvicorn.Config(
        AdminPort(app, admin.getsockname()[1]) if admin else app,
        loop="uvloop",
        http=_Protocol,
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
        server.run(sockets=[sock, admin] if admin else [sock])
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, which sends the head of a reply with its body, and whose connection an app can cut: what was written to a client that
    reads nothing would be flushed first otherwise."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CUT] = self.transport.abort  # type: ignore[literal-required]


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

    def _protocol(self) -> _Protocol:
        return _Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accepted(sock: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):  # nothing more waits
        while True:
            yield sock.accept()[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
