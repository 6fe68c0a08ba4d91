"""A plain HTTP client as a user would write one: queries, event streams, everything else. It knows no internals of loadsplit."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """A whole reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event of a turn."""

    id: int
    type: str
    data: Any


class Client:
    """Talks to one base URL, with an API key if it has one; every call has its own connection."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self._key = {"authorization": f"Bearer {key}"} if key else {}
        self._at = urlsplit(url)

    def with_key(self, key: str | None) -> Client:
        """The same with another key."""
        return Client(self.url, key)

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; `body` is sent as JSON, `raw` as it is."""
        connection = self._send(method, path, body, raw, headers)
        reply = connection.getresponse()
        answer = Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        connection.close()
        return answer

    def ask(self, message: str, session: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """POST /api/v1/query."""
        return self.call("POST", "/api/v1/query", {"message": message, "session_id": session, **fields}, headers=headers)

    def stream(self, message: str, session: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> EventStream:
        """POST /api/v1/query/stream."""
        body = {"message": message, "session_id": session, **fields}
        return EventStream(self._send("POST", "/api/v1/query/stream", body, headers=headers))

    def resume(self, turn_id: str, after: int) -> EventStream:
        """GET /api/v1/turns/{id}/stream."""
        return EventStream(self._send("GET", f"/api/v1/turns/{turn_id}/stream", headers={"Last-Event-ID": str(after)}))

    def get_stream(self, path: str) -> EventStream:
        """GET of any other stream of events."""
        return EventStream(self._send("GET", path))

    def messages(self, session: str) -> list[tuple[str, str]]:
        """(role, content) of what a session holds, without tool traffic."""
        found = self.call("GET", f"/api/v1/session/{session}?include=messages&limit=500").json["messages"]
        return [(m["role"], m["content"]) for m in found if m["role"] in ("user", "assistant") and m["content"]]

    def _send(
        self, method: str, path: str, body: Any = None, raw: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._at.hostname or "", self._at.port, timeout=30)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json", **self._key, **(headers or {})})
        return connection


class EventStream:
    """An open stream; iterating gives its events as they come. `close` drops the connection in the middle."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._reply = connection.getresponse()
        self.status = self._reply.status
        self.headers = {k.lower(): v for k, v in self._reply.getheaders()}

    def __iter__(self) -> Iterator[StreamEvent]:
        fields: dict[str, str] = {}
        for raw in self._reply:
            line = raw.decode().rstrip("\r\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                document = json.loads(fields["data"])
                assert document["type"] == fields["event"]
                yield StreamEvent(int(fields["id"]), fields["event"], document["data"])
                fields = {}
            else:
                fields = {}
        self._reply.close()
        self._connection.close()

    def take(self, count: int) -> list[StreamEvent]:
        """The next events."""
        return list(itertools.islice(self, count))

    def close(self) -> None:
        """Drops the connection as a client does that vanishes."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._reply.close()
        self._connection.close()


def said(events: list[StreamEvent]) -> str:
    """What the text deltas make together."""
    return "".join(e.data["delta"] for e in events if e.type == "text")
