"""Counts the requests that come to the heavy tier with an API key against their tenant's limit. Queries with a ticket were counted already.

Where no tenant has a limit of requests it looks at nothing. A WebSocket's key may be elsewhere: its route counts it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from common.contracts import ticket as tickets
from common.contracts.chat import PATH as CHAT
from common.errors import DependencyUnavailable, Unauthorized
from common.web.asgi import Receive, Scope, Send, header
from common.web.middleware import WATCHERS
from heavy.routes.state import credentials, heavy_of

COUNTED = ("/api/v1/", "/v1/")
QUERIES = ("/api/v1/query", "/api/v1/query/stream", CHAT)


class Counted:
    """Middleware inside the edge, which tells the refusal."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises RateLimited."""
        if scope["type"] == "http" and heavy_of(scope).keys.counts_requests and _is_counted(scope):
            await _count(scope)
        await self._app(scope, receive, send)


async def _count(scope: Scope) -> None:
    heavy = heavy_of(scope)
    try:
        caller = heavy.keys.authenticate(credentials(scope))
    except (Unauthorized, DependencyUnavailable):
        return  # the route refuses it, if it needs a key at all
    await heavy.quotas.request(caller)


def _is_counted(scope: Scope) -> bool:
    path: str = scope["path"]
    if path in QUERIES:  # a ticket that does not hold is refused there
        return header(scope, tickets.HEADER.encode()) is None
    return path.startswith(COUNTED) and path not in WATCHERS
