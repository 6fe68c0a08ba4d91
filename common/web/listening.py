"""Where a process listens: ports of its own, ports that several workers share, a unix socket. Each refusal is one line for the operator.

Without API keys a server listens on loopback only, unless told otherwise. It knows no app.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

UNREAD_MS = 90_000
ADMIN_PORT = "LOADSPLIT_ADMIN_PORT"
SOCKET_MODE = 0o660


class CannotServe(Exception):
    """The server cannot start; the text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where a process serves: the API, beside it on a unix socket, and what is the operators' where that has a port of its own."""

    api: socket.socket
    unix: socket.socket | None = None
    admin: socket.socket | None = None


@contextlib.contextmanager
def open_sockets(
    host: str, port: int, admin_port: int | None = None, *, uds: Path | None = None, given: Sequence[socket.socket] | None = None
) -> Iterator[Sockets]:
    """Bound sockets while the context lasts; `given` ones, the API's and the operators', stand for the ports. Raises CannotServe."""
    with contextlib.ExitStack() as stack:
        if given is None:
            api = stack.enter_context(bind(host, port))
            admin = stack.enter_context(bind_admin(host, admin_port, port))
        else:
            api, *others = [stack.enter_context(sock) for sock in given]
            admin = others[0] if others else None
        yield Sockets(api, stack.enter_context(bind_unix(uds)), admin)


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A bound socket, not yet listening; `option` is what said the port. Raises CannotServe when it is in use or the host is not ours."""
    return _bound(_tcp(host), host, port, option)


def bind_shared(host: str, port: int, count: int, option: str = "--port") -> list[socket.socket]:
    """So many sockets bound to one port, among which the kernel deals out connections as soon as they listen. Raises CannotServe as
    `bind` does: who else listens there with the same option would get a share of them."""
    with bind(host, port, option) as alone:
        port = alone.getsockname()[1]
    return [join_shared(host, port, option) for _ in range(count)]


def join_shared(host: str, port: int, option: str = "--port") -> socket.socket:
    """One more of `bind_shared`."""
    sock = _tcp(host)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bound(sock, host, port, option)


@contextlib.contextmanager
def bind_admin(host: str, port: int | None, api_port: int) -> Iterator[socket.socket | None]:
    """A bound socket of LOADSPLIT_ADMIN_PORT while the context lasts, None where there is to be none. Raises CannotServe."""
    check_admin_port(port, api_port)
    if port is None:
        yield None
        return
    with bind(host, port, ADMIN_PORT) as sock:
        yield sock


def check_admin_port(port: int | None, api_port: int) -> None:
    """Raises CannotServe where the operators' port is the one of the API."""
    if port is not None and port == api_port:
        raise CannotServe(f"{ADMIN_PORT}: {port} is the port of the API, choose another")


@contextlib.contextmanager
def bind_unix(path: Path | None) -> Iterator[socket.socket | None]:
    """A unix socket bound to the path while the context lasts, for the user and the group of its file; None without a path. What a dead
    process left there is replaced, and the file is removed at the end, unless it is another's by then. Raises CannotServe."""
    if path is None:
        yield None
        return
    _make_way(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(str(path))
            path.chmod(SOCKET_MODE)  # before it listens nobody can connect
            ours = path.stat().st_ino
        except OSError as e:
            raise CannotServe(f"--uds: cannot listen on {path}: {e.strerror or e}") from None
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == ours:
                    path.unlink()


def require_safe_host(host: str, *, has_keys: bool, insecure: bool) -> None:
    """Raises CannotServe for a public address without API keys."""
    if has_keys or insecure or _is_loopback(host):
        return
    raise CannotServe(
        f"no API keys are configured, so only a loopback address may be served, not {host}: "
        "set LOADSPLIT_API_KEYS, or say --insecure when something in front checks callers"
    )


def _tcp(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it: the kernel ends a connection whose other end takes nothing
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    return sock


def _bound(sock: socket.socket, host: str, port: int, option: str) -> socket.socket:
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


def _make_way(path: Path) -> None:
    """Removes the socket of a process that is gone. Raises CannotServe for whatever else is there."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise CannotServe(f"--uds: {path} exists and is no socket: choose another path")
    except OSError:
        return  # nothing is there, or what keeps us from looking keeps us from binding too, which tells it
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as e:
            raise CannotServe(f"--uds: {path} cannot be used: {e.strerror or e}") from None
    raise CannotServe(f"--uds: {path} is in use: stop what listens there, or choose another path")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
