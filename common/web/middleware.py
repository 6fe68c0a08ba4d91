"""The edge of the routes that are not hot: request id, the headers that every reply carries, the count of what is in flight, and problems.

Pure ASGI: Starlette's BaseHTTPMiddleware costs a task and a queue for each request. Of routes it knows only those that watch the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from common.contracts.ticket import HEADER, traceparent_of
from common.errors import Overloaded
from common.telemetry.bound import bind
from common.telemetry.metrics import Metrics
from common.telemetry.tracing import NO_SPAN, NO_TRACING, Span, Tracing, checked_parent, work_under
from common.web.asgi import ClientDisconnected, Message, Receive, Scope, Send, header, request_id
from common.web.errors import as_loadsplit_error, problem_response

# A process that is full must still say that it lives: who watches it is not refused.
WATCHERS = frozenset({"/livez", "/readyz", "/metrics", "/api/v1/health"})

# A process that is told to end takes no new connection, but serves those that are open for this long, and closes each behind its reply:
# whoever keeps connections must not find one closed that it is just writing to.
FAREWELL_SECONDS = 1.0

TICKET = HEADER.encode()
ASGIApp = Callable[[Scope, Receive, Send], object]


@dataclass(slots=True)
class InFlight:
    """Requests under way in this process, and whether it is draining. `limit` is where new ones are refused."""

    limit: int = 1_000_000
    count: int = 0
    draining: bool = False
    since: float = 0.0

    def drain(self) -> None:
        """From now on the process is not ready for more. A second signal changes nothing."""
        if not self.draining:
            self.draining, self.since = True, time.monotonic()

    @property
    def closing(self) -> bool:
        """Whether nothing new comes any more: the process drains, and its farewell is over."""
        return self.draining and time.monotonic() - self.since >= FAREWELL_SECONDS

    def left(self, seconds: float) -> float:
        """What is left of so many seconds since draining began; all of them where it has not."""
        return max(0.0, seconds - (time.monotonic() - self.since)) if self.draining else seconds

    def enter(self) -> None:
        """Counts a request. Raises Overloaded at the limit."""
        if self.count >= self.limit:
            raise Overloaded("too many requests are under way here", retry_after=1.0)
        self.count += 1

    def leave(self) -> None:
        """Ends what `enter` began."""
        self.count -= 1


class Edge:
    """Middleware around an ASGI app. `config_hash` is asked for each reply, since it changes when a config is activated.
    The hot path does all this itself and is mounted outside of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tier: str,
        config_hash: Callable[[], str],
        metrics: Metrics | None = None,
        inflight: InFlight | None = None,
        route_kind: str = "api",
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._app = app
        self._tier = tier
        self._config_hash = config_hash
        self._metrics = metrics or Metrics()
        self._inflight = inflight or InFlight()
        self._route_kind = route_kind
        self._tracing = tracing
        self._seconds = self._metrics.request_seconds.labels(tier)
        self._gauge = self._metrics.requests_inflight.labels(tier)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; other protocols pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # type: ignore[misc]
            return
        rid = request_id(scope)
        bind(request_id=rid)
        span = self._span(scope, rid) if self._tracing.on and scope["path"] not in WATCHERS else NO_SPAN
        began = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers(message.get("headers", ()), rid, began)
            await send(message)

        entered = False
        try:
            if scope["path"] not in WATCHERS:
                self._inflight.enter()
                entered = True
            self._gauge.set(self._inflight.count)
            await self._app(scope, receive, send_with_headers)  # type: ignore[misc]
        except ClientDisconnected:
            status = status or 499
        except Exception as e:  # the last line before the server: whatever it is leaves as a problem, its cause goes to the log
            error = as_loadsplit_error(e, rid)
            if status:  # the reply had begun: all that is left is to break it off
                raise
            code, headers, body = problem_response(error, rid, scope["path"])
            await send_with_headers({"type": "http.response.start", "status": code, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            if entered:
                self._inflight.leave()
                self._gauge.set(self._inflight.count)
            self._metrics.requests_total.labels(self._tier, self._route_kind, str(status)).inc()
            self._seconds.observe(time.perf_counter() - began)
            span.set({"http.response.status_code": status})
            span.end(error=str(status) if status >= 500 else None)

    def _span(self, scope: Scope, rid: str) -> Span:
        """The request's span, under the one that handed it over, or the caller's."""
        ticket = header(scope, TICKET)
        parent = traceparent_of(ticket) if ticket else checked_parent(header(scope, b"traceparent"))
        span = self._tracing.begin(span_name(scope), parent=parent, request_id=rid, kind="server")
        span.set({"http.request.method": scope["method"], "loadsplit.request_id": rid})
        work_under(span)
        bind(trace_id=span.trace_id)
        return span

    def _headers(self, headers: object, rid: str, began: float) -> list[tuple[bytes, bytes]]:
        kept: list[tuple[bytes, bytes]] = list(headers)  # type: ignore[call-overload]
        there = {k.lower() for k, _ in kept}
        for name, value in (
            (b"x-request-id", rid),
            (b"x-loadsplit-tier", self._tier),
            (b"x-loadsplit-config", self._config_hash()),
            (b"server-timing", f"total;dur={(time.perf_counter() - began) * 1000:.2f}"),
        ):
            if name not in there:
                kept.append((name, value.encode()))
        return kept


def span_name(scope: Scope) -> str:
    """Method and the first parts of the path: ids come behind them."""
    return f"{scope['method']} {'/'.join(scope['path'].split('/')[:4])}"
