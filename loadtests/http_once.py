"""One request at a time to loopback, for what a bench asks beside its load. Not for loads: each call opens a connection."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any


def post(port: int, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    """(status, headers in lower case, body)."""
    return _ask(port, "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    """The same of a GET."""
    return _ask(port, "GET", path, None, {})


def _ask(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()
