"""A receiver of webhooks in a thread of the test: it keeps what comes, and answers each path as the test says. It verifies signatures with
the library of Standard Webhooks, not with ours.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

import standardwebhooks

from tests.support.threaded import served

HANG_SECONDS = 60.0
# A status, a status with headers, or "hang": 204, but not before the path is released.
Answer = int | tuple[int, Mapping[str, str]] | str


@dataclass(frozen=True)
class Message:
    """One attempt as it came. `at` is of the monotonic clock; header names are lower case; `peer` is the sender's port."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    peer: int

    @property
    def id(self) -> str:
        """The webhook-id."""
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The decoded body, if the independent library takes it."""
        return standardwebhooks.Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """A context manager. `answers` hold for each path what comes next, the last one for ever; a path without any is answered 204."""

    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    messages: list[Message] = field(default_factory=list)
    connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _released: dict[str, threading.Event] = field(default_factory=lambda: defaultdict(threading.Event))

    def __enter__(self) -> Receiver:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._serving = served(handler, self._connected)
        self.port = self._serving.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for path in list(self._released):
            self.release(path)
        self._serving.__exit__(None, None, None)

    def _connected(self) -> None:
        self.connections += 1

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def allowed(self) -> str:
        """The entry of LOADSPLIT_EGRESS_ALLOW that opens it."""
        return f"127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Message]:
        """What came to one path."""
        return [m for m in self.messages if m.path == path]

    def release(self, path: str = "/hook") -> None:
        """Whoever hangs at a path is answered now, and nobody hangs there any more."""
        self._released[path].set()

    def take(self, message: Message) -> Answer:
        """Keeps a message; what it is answered."""
        with self._lock:
            self.messages.append(message)
            answers = self.answers.get(message.path, [])
            return (answers.pop(0) if len(answers) > 1 else answers[0]) if answers else 204

    def hang(self, path: str) -> None:
        """Waits for the release."""
        self._released[path].wait(HANG_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {k.lower(): v for k, v in self.headers.items()}
        answer = self.owner.take(Message(self.path, headers, body, time.monotonic(), int(self.client_address[1])))
        if isinstance(answer, str):
            self.owner.hang(self.path)
            answer = 204
        status, more = answer if isinstance(answer, tuple) else (answer, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **more}.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
