"""A port of its own for operators: /admin and /metrics are served there and nowhere else.

It knows ports and paths, no app.
"""

from __future__ import annotations

from common.errors import NotFound
from common.web.asgi import Receive, Scope, Send, request_id
from common.web.errors import problem_response
from common.web.middleware import WATCHERS, ASGIApp

CLOSED = 1008  # the close code of a WebSocket that is refused by policy


class AdminPort:
    """Around a whole app that listens on two ports: what is an operator's is found on this port only, and nothing else but health is
    found there."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app, self._port = app, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; the lifespan passes through."""
        if scope["type"] == "lifespan" or self._is_here(scope["path"], scope["server"][1]):
            await self._app(scope, receive, send)  # type: ignore[misc]
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": CLOSED, "reason": ""})
        else:
            status, headers, body = problem_response(
                NotFound("there is nothing at this path on this port"), request_id(scope), scope["path"]
            )
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _is_here(self, path: str, port: int) -> bool:
        operators = path in ("/admin", "/metrics") or path.startswith("/admin/")
        return operators or path in WATCHERS if port == self._port else not operators
