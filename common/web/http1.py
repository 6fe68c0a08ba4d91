"""HTTP/1.1 between uvicorn's parser and an ASGI app: what uvicorn does for each request and reply, in a third of its time.

uvicorn keeps the connection, the parsing, WebSockets and the end of the server. Of routes this knows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from common.web.asgi import Message, Scope
from common.web.sse import CUT

log = logging.getLogger(__name__)

ASGIApp = Callable[[Any, Any, Any], Any]

_PLAIN_URL = re.compile(rb"(?:/[A-Za-z0-9._-]+)+\Z")  # it is its own path: nothing is quoted, nothing is asked
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_CONTROL = bytes({*range(0x20), 0x7F} - {0x09})  # no value may hold one of these; two of them end each line
_KNOWN_NAMES = 1000
_WRITTEN: dict[bytes, tuple[bytes, bytes]] = {}  # what `_written` has found, of so many names
_SPECIAL = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_BODILESS = frozenset({204, 304})
_FAILED = b"Internal Server Error"
_FAILED_HEADERS = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED)), (b"connection", b"close"))


class Http1(HttpToolsProtocol):
    """One connection. An app finds in the scope how to cut it: what was written to a client that reads nothing would be flushed first
    otherwise."""

    cycle: Cycle  # type: ignore[assignment]
    pipeline: Any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Notes what every request of the connection has in common."""
        super().connection_made(transport)
        self._busy = False
        self._idle_since = 0.0
        self._of_connection = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            CUT: transport.abort,
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the app, and whoever waits to write."""
        self.connections.discard(self)
        if self.cycle is not None:
            self.cycle.disconnected = not self.cycle.response_complete
            self.cycle.wake()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.parser = None  # type: ignore[assignment]

    def _unset_keepalive_if_required(self) -> None:
        """A request begins, or goes on. One timer is left to ring and looks then: setting it anew for each request took 1 µs."""
        self._busy = True

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection on which nothing has come for so long."""
        self.timeout_keep_alive_task = None
        if self._busy:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        elif not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {**self._of_connection, "headers": self.headers, "state": self.app_state.copy()}  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        """Its head is there: the app may begin, in its turn."""
        version, scope, url = self.parser.get_http_version(), self.scope, self.url
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1" or self.root_path or self.parser.should_upgrade() or not _PLAIN_URL.match(url):
            scope["http_version"] = version
            if self.parser.should_upgrade() and self._should_upgrade():
                return
            self._read_url(url)
        else:
            scope["path"], scope["raw_path"], scope["query_string"] = url.decode("ascii"), url, b""
        before = self.cycle
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = cycle = Cycle(scope, self, keep_alive, self.expect_100_continue)
        if before is None or before.response_complete:
            self._begin(cycle)
        else:  # it was sent before the reply to the last one
            self.flow.pause_reading()
            self.pipeline.appendleft(cycle)

    def _read_url(self, url: bytes) -> None:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
        self.scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + parsed.path
        self.scope["query_string"] = parsed.query or b""

    def _begin(self, cycle: Cycle) -> None:
        cycle.task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(cycle.task)

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        cycle.body = cycle.body + body if cycle.body else body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        """It is there as a whole."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        cycle.more_body = False
        cycle.wake()

    def on_response_complete(self) -> None:
        """Its reply is written: the next one's turn, if there is one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._begin(self.pipeline.pop())
            return
        self._busy = False
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


class Cycle:
    """One request and its reply. A head that says how long its body is waits for the first piece of that, so that both leave in one system
    call; all else goes out at once: the head of a stream, whose first event may take its time."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_event",
        "_expects",
        "_head",
        "_left",
        "_news",
        "body",
        "disconnected",
        "flow",
        "keep_alive",
        "more_body",
        "response_complete",
        "scope",
        "task",
        "transport",
    )

    task: asyncio.Task[None]

    def __init__(self, scope: Any, connection: Http1, keep_alive: bool, expects_continue: bool) -> None:
        self.scope: Scope = scope
        self.transport: asyncio.Transport = connection.transport
        self.flow: FlowControl = connection.flow
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = keep_alive
        self._connection = connection
        self._expects = expects_continue
        self._event: asyncio.Event | None = None  # made where somebody must wait
        self._news = False
        self._head: bytes | None = None  # None before the reply begins, then what is kept back
        self._left: int | None = None  # bytes of the body that are to come, None where its length is not told
        self._chunked = False

    def wake(self) -> None:
        """Something has come, or the client has gone."""
        self._news = True
        if self._event is not None:
            self._event.set()

    async def run(self, app: ASGIApp) -> None:
        """Lets the app answer. Whatever it leaves undone closes the connection."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the app ended before its reply did")
        except BaseException as e:  # the last line: whatever it is, the client must not wait
            log.error("exception in the app", exc_info=e)
            if self._head is None and not self.disconnected:
                await self.send({"type": "http.response.start", "status": 500, "headers": _FAILED_HEADERS})
                await self.send({"type": "http.response.body", "body": _FAILED})
            else:
                self._write(b"")
                self.transport.close()
        finally:
            self._connection.tasks.discard(self.task)

    async def receive(self) -> Message:
        """What has come of the body since the last time, waited for when that is nothing; after its end the disconnect."""
        if self._expects and not self.transport.is_closing():
            self._expects = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if not self._news:
                event = self._event = self._event or asyncio.Event()
                event.clear()
                await event.wait()
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """The head of the reply, then its body, in one piece or many. Raises RuntimeError for what would be no HTTP."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        wanted = "http.response.start" if self._head is None else "http.response.body"
        if message["type"] != wanted or self.response_complete:
            raise RuntimeError(f"the app sent {message['type']} {'behind its reply' if self.response_complete else 'for ' + wanted}")
        if self._head is None:
            self._begin(message["status"], message.get("headers", ()))
            return
        self._write(self._piece(message.get("body", b""), more := message.get("more_body", False)))
        if not more:
            self.response_complete = True
            self.wake()
            if not self.keep_alive:
                self.transport.close()
            self._connection.on_response_complete()

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        parts, lines, closes = [STATUS_LINE[status]], 1, False
        for name, value in (*self._connection.server_state.default_headers, *headers):
            written, special = _WRITTEN.get(name) or _written(name)
            parts += (written, value, b"\r\n")
            lines += 1
            if special == b"content-length":
                self._left = int(value)
            elif special == b"transfer-encoding":
                self._chunked = value.lower() == b"chunked"
            elif special == b"connection" and b"close" in value.lower():
                self.keep_alive, closes = False, True
        head = b"".join(parts)
        if len(head) - len(head.translate(None, _CONTROL)) != 2 * lines:
            raise RuntimeError("a header of the reply holds a control character")
        self._expects = False
        if not self.keep_alive and not closes:
            head += b"connection: close\r\n"
        if self._left is None and not self._chunked and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self._chunked = True
            head += b"transfer-encoding: chunked\r\n"
        self._head = head + b"\r\n"
        if self._chunked or self._left is None:
            self._write(b"")

    def _piece(self, body: bytes, more: bool) -> bytes:
        """A piece of the body as it stands on the wire."""
        if self.scope["method"] == "HEAD":
            return b""
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self._left = (self._left or 0) - len(body)
        if self._left < 0 or (self._left and not more):
            raise RuntimeError("the body of the reply is not as long as its content-length says")
        return body

    def _write(self, data: bytes) -> None:
        """Sends, behind the head where that was kept."""
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self.transport.write(data)


def _written(name: bytes) -> tuple[bytes, bytes]:
    """A header's name as it is written, and the name where it says how the reply goes on. Raises RuntimeError for what is no name."""
    if not _NAME.match(name):
        raise RuntimeError("a header of the reply has a name that is none")
    lower = name.lower()
    found = (lower + b": ", lower if lower in _SPECIAL else b"")
    if len(_WRITTEN) < _KNOWN_NAMES:
        _WRITTEN[name] = found
    return found
