"""A business API that misbehaves, in a thread of the test: hangs, fails, floods, redirects, echoes; it counts everything that reaches it.

It also poses as an LLM provider that quotes the caller's key in its error. It knows nothing of loadsplit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.threaded import served

FLOOD_BYTES = 1_000_000_000
BOMB_BYTES = 100_000_000
HANG_SECONDS = 30.0


@dataclass(frozen=True)
class Seen:
    """One request as it came; `path` is not decoded, header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class OddApi:
    """`failing` makes /fail answer 503. `seen` and `connections` count what came; `flooded` is how much of a flood was taken; `applied` are
    the effects of /apply, by body: the Idempotency-Keys that each has had, one for every effect. `once` are the keys that had an effect
    under /once, where the first reply of each is lost (under /once/hang: never comes)."""

    failing: bool = True
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    once: list[str] = field(default_factory=list)
    flooded: int = 0
    applied: dict[str, list[str]] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> OddApi:
        handler = type("Handler", (_Handler,), {"owner": self})
        # On every address of the machine: whoever reaches it by an odd spelling is counted.
        self._serving = served(handler, self._connected, "0.0.0.0")
        self.port = self._serving.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.released.set()
        self._serving.__exit__(None, None, None)

    def _connected(self) -> None:
        self.connections += 1

    @property
    def url(self) -> str:
        """Its address on loopback."""
        return f"http://127.0.0.1:{self.port}"

    def paths(self, start: str) -> list[str]:
        """The paths of all requests below one."""
        return [s.path for s in self.seen if s.path.startswith(start)]


@functools.cache
def _bomb() -> bytes:
    press = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([press.compress(b"0" * 1_000_000) for _ in range(BOMB_BYTES // 1_000_000)]) + press.flush()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: OddApi

    def do_GET(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        self.owner.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        name = urlsplit(self.path).path.strip("/").partition("/")[0]
        answers: dict[str, Callable[[], None]] = {
            "hang": self._hang,
            "fail": self._fail,
            "flood": self._flood,
            "bomb": self._bomb,
            "deep": lambda: self._send(200, b'{"status":' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
            "nested": lambda: self._send(200, b'{"status":' + b"[" * 200 + b"]" * 200 + b"}"),
            "redirect": lambda: self._send(302, b"", {"Location": f"http://127.0.0.1:{self.owner.port}/landing"}),
            "steer": lambda: self._json({"status": "fine"}, 200, {"X-Accel-Redirect": "/metrics", "X-Accel-Limit-Rate": "1"}),
            "llm": self._llm,
            "once": self._once,
            "apply": lambda: self._apply(body.decode()),
        }
        answers.get(name, lambda: self._json({"status": "fine", "path": self.path, "body": body.decode()}))()

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    def _hang(self) -> None:
        self.owner.released.wait(HANG_SECONDS)
        self._json({"status": "late"})

    def _once(self) -> None:
        key = self.headers["idempotency-key"]
        if key in self.owner.once:
            self._json({"status": "applied"})
            return
        self.owner.once.append(key)
        if self.path.endswith("/hang"):
            self.owner.released.wait(HANG_SECONDS)
        self.close_connection = True

    def _fail(self) -> None:
        if self.owner.failing:
            self._json({"error": "internal-secret-of-the-api"}, 503)
        else:
            self._json({"status": "healed"})

    def _flood(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        chunk, sent = b'"' + b"x" * 65535, 0
        with contextlib.suppress(OSError):
            while sent < FLOOD_BYTES:
                self.wfile.write(chunk)
                sent += len(chunk)
        self.owner.flooded += sent

    def _bomb(self) -> None:
        self._send(200, _bomb(), {"Content-Encoding": "gzip"})

    def _llm(self) -> None:
        key = self.headers.get("authorization") or self.headers.get("x-api-key") or ""
        said = f"Incorrect API key provided: {key.removeprefix('Bearer ')}"
        self._json({"type": "error", "error": {"type": "authentication_error", "code": "invalid_api_key", "message": said}}, 401)

    def _apply(self, body: str) -> None:
        """An effect for each new Idempotency-Key. `?lose` cuts the connection instead of the first reply, `?wait` (seconds) keeps the reply
        back; a key that came before gets its reply at once."""
        key, query = self.headers.get("idempotency-key", ""), parse_qs(urlsplit(self.path).query)
        effects = self.owner.applied.setdefault(body, [])
        known = key in effects
        if not known:
            effects.append(key)
            if "lose" in query:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.owner.released.wait(float(query.get("wait", ["0"])[0]))
        self._json({"booking": "B-1"})
