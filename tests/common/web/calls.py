"""Calls ASGI apps as a server does, with nothing in between, and keeps what they sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson


def scope(method: str = "GET", path: str = "/", headers: dict[str, str] | None = None) -> dict[str, Any]:
    raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": raw,
        "state": {},
        "root_path": "",
    }


@dataclass
class Sent:
    """Everything that an app sent in one request."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, message: Any) -> None:
        self.messages.append(dict(message))

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def body_of(*chunks: bytes, then: str = "http.disconnect") -> Callable[[], Any]:
    """A `receive` that gives these chunks and then the disconnect."""
    messages = [{"type": "http.request", "body": c, "more_body": n < len(chunks) - 1} for n, c in enumerate(chunks)]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": then}

    return receive


async def call(app: Any, *args: Any, body: bytes = b"", **kw: Any) -> Sent:
    """One request to an ASGI app."""
    sent = Sent()
    await app(scope(*args, **kw), body_of(body), sent)
    return sent
