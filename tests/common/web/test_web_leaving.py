"""A server that is told to leave: whoever has a connection is served, everybody else is refused."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.busy_server import BUSY_SECONDS

BODY = b'{"a":1}'


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process, and its port."""
    with subprocess.Popen([sys.executable, "-m", "tests.support.busy_server"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def asked(port: int, path: str) -> socket.socket:
    """A new connection with a request on its way."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    sock.sendall(head.encode() + BODY)
    return sock


def replied(sock: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    with sock:
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_what_waits_to_be_accepted_is_served(server: tuple[subprocess.Popen[str], int]) -> None:
    """The kernel has made these connections while the process was busy: the callers believe to be connected, and have sent everything."""
    process, port = server
    first = asked(port, "/busy/")
    time.sleep(BUSY_SECONDS / 4)
    process.send_signal(signal.SIGTERM)
    waiting = [asked(port, "/echo/") for _ in range(5)]
    replies = [replied(sock) for sock in (first, *waiting)]
    for reply in replies:
        assert reply.startswith(b"HTTP/1.1 200 "), reply
        assert reply.endswith(BODY)
    assert all(b"connection: close\r\n" in reply for reply in replies[1:])
    with pytest.raises(ConnectionRefusedError):
        asked(port, "/echo/")
    assert process.wait(5) == 0
