"""One command to a test's Redis, without an event loop and without the client under test."""

from __future__ import annotations

import socket
from typing import Any

import hiredis


def redis_command(port: int, *args: str | bytes | int, database: int = 0) -> Any:
    """Sends one command to 127.0.0.1:port and returns the reply: bytes, int, list or None. Raises AssertionError on an error reply."""
    reader = hiredis.Reader(notEnoughData=...)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        for command in (("SELECT", str(database)), tuple(str(a) if isinstance(a, int) else a for a in args)):
            s.sendall(hiredis.pack_command(command))
            while (reply := reader.gets()) is ...:
                reader.feed(s.recv(65536))
            if isinstance(reply, hiredis.ReplyError):
                raise AssertionError(f"{args[0]!r}: {reply}")
    return reply
