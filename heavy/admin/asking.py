"""Asks an endpoint of the API in this process, for who has logged in: a page shows what the API answers, under the API's own checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from common.web.asgi import Message
from common.web.auth import Caller
from heavy.routes.state import Heavy

Endpoint = Callable[[Request], Awaitable[Response]]
JSON = "application/json"


async def ask(
    heavy: Heavy,
    caller: Caller,
    endpoint: Endpoint,
    *,
    request_id: str,
    query: Mapping[str, Any] | None = None,
    path: Mapping[str, str] | None = None,
    body: Any = None,
    content_type: str = JSON,
) -> Any:
    """The document that the endpoint answers with. What is empty or None in `query` is not asked for; `body` is sent as JSON, bytes as they
    are. Raises what the endpoint raises."""
    wanted = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    scope = {
        "type": "http",
        "method": "GET" if body is None else "POST",
        "path": "/admin/api",
        "query_string": urlencode(wanted).encode(),
        "headers": [(b"content-type", content_type.encode())],
        "path_params": dict(path or {}),
        "state": {"heavy": heavy, "caller": caller, "request_id": request_id},
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    response = await endpoint(Request(scope, receive))
    return orjson.loads(response.body) if response.body else None
