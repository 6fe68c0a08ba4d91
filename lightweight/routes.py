"""The paths of the tier: the hot ones before the router, its own pages behind the edge middleware. What is not here is heavy's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route

from common.contracts.chat import PATH as CHAT
from common.errors import NotFound
from common.telemetry.metrics import Metrics
from common.web.asgi import Receive, Scope, Send
from common.web.health import health, livez, metrics_page, readyz
from common.web.middleware import Edge, InFlight
from lightweight.handoff import Handoff, Proxy
from lightweight.query.chat import ChatEndpoint
from lightweight.query.endpoint import QueryEndpoint

Check = Callable[[], Awaitable[Any]]
# What heavy offers to the public. /metrics and /admin of heavy are not among it.
HEAVY_PREFIXES = ("/api/v1/", "/v1/", "/assets/")
HEAVY_PAGES = ("/", "/openapi.json", "/docs")


class HotFirst(Starlette):
    """An app whose hot paths come before Starlette's stack, which wraps every send. Hot endpoints answer their errors themselves."""

    def __init__(self, query: QueryEndpoint, query_stream: QueryEndpoint, chat: ChatEndpoint, **options: Any) -> None:
        super().__init__(**options)
        self._hot: Mapping[str, QueryEndpoint] = {"/api/v1/query": query, "/api/v1/query/stream": query_stream, CHAT: chat}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan."""
        endpoint = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        await (endpoint or super().__call__)(scope, receive, send)


def build_routes(
    handoff: Handoff,
    *,
    config_hash: Callable[[], str],
    metrics: Metrics,
    inflight: InFlight,
    checks: Mapping[str, Check],
    ready: Mapping[str, Check] | None = None,
) -> Sequence[BaseRoute]:
    """Routes of a lightweight process. In proxy mode the rest of the API is heavy's, one hop on; behind Nginx it never comes here.
    `ready` is what it cannot serve without."""
    edge = Middleware(Edge, tier="lightweight", config_hash=config_hash, metrics=metrics, inflight=inflight)
    return [
        Mount(
            "/",
            routes=[
                Route("/livez", livez()),
                Route("/readyz", readyz(inflight, ready)),
                Route("/api/v1/health", health("lightweight", config_hash, checks)),
                Route("/metrics", metrics_page(metrics)),
                Mount("/", Rest(handoff)),
            ],
            middleware=[edge],
        ),
    ]


class Rest:
    """Every other path: forwarded to heavy where this tier is the door, unknown where Nginx is."""

    def __init__(self, handoff: Handoff) -> None:
        self._proxy = handoff if isinstance(handoff, Proxy) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards one request. Raises NotFound for what heavy does not offer to the public."""
        path = scope["path"]
        proxy = self._proxy if path.startswith(HEAVY_PREFIXES) or path in HEAVY_PAGES else None
        if scope["type"] == "websocket":
            await (proxy.socket(scope, receive, send) if proxy else send({"type": "websocket.close", "code": 1008}))
            return
        if proxy is None:
            raise NotFound("there is nothing at this path")
        await proxy.forward(scope, receive, send)
