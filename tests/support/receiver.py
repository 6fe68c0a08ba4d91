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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import standardwebhooks

HANG_SECONDS = 60.0
# A status, a status with headers, or "hang": no answer until the receiver is released.
Answer = int | tuple[int, Mapping[str, str]] | str


@dataclass(frozen=True)
class Message:
    """One attempt as it came. `at` is of the monotonic clock; header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

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
    _released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(_Handler):
            owner = receiver

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> Any:
                receiver.connections += 1
                return super().get_request()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A sender that hangs up is what is tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

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

    def release(self) -> None:
        """Whoever hangs is answered now, and nobody hangs any more."""
        self._released.set()

    def take(self, message: Message) -> Answer:
        """Keeps a message; what it is answered."""
        with self._lock:
            self.messages.append(message)
            answers = self.answers.get(message.path, [])
            return (answers.pop(0) if len(answers) > 1 else answers[0]) if answers else 204

    def hang(self) -> None:
        """Waits for the release."""
        self._released.wait(HANG_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.owner.take(Message(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic()))
        if isinstance(answer, str):
            self.owner.hang()
            answer = 204
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
