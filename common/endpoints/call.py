"""Makes declared HTTP calls, safely: egress policy, time-outs, retries within a budget, circuit breaker, response cap, cache.

Nothing of the reply but its decoded body leaves this module: no header, no cookie, no text of an error page.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
import jmespath.exceptions
import orjson
from aiohttp.abc import AbstractResolver

from common.endpoints.breaker import Breaker, RetryBudget
from common.endpoints.cache import FlightCache
from common.endpoints.egress import EgressPolicy
from common.endpoints.failures import EndpointFailed
from common.endpoints.pools import FAILURES, Pools, reason_of
from common.endpoints.request import CompiledEndpoint, Prepared, compile_endpoint
from common.telemetry.metrics import Metrics
from common.telemetry.tracing import NO_SPAN, current_span

__all__ = ["CompiledEndpoint", "EndpointFailed", "HttpCaller", "compile_endpoint"]

MAX_DEPTH = 64
MAX_STATES = 10_000
PER_HOST = 512
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.05, 1.0
_AGAIN = frozenset({502, 503, 504})
_HEADERS = {"User-Agent": "loadsplit", "Accept": "application/json, */*;q=0.5", "Accept-Encoding": "gzip, deflate"}


@dataclass(slots=True)
class _Health:
    session: aiohttp.ClientSession
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)


class HttpCaller:
    """An async context manager; one for a process and policy. `max_response` is bytes after decompression."""

    def __init__(
        self,
        policy: EgressPolicy | None = None,
        metrics: Metrics | None = None,
        max_response: int = 1_000_000,
        *,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.policy = policy or EgressPolicy()
        self._metrics = metrics or Metrics()
        self._max_response = max_response
        self._pools = Pools(self.policy, headers=_HEADERS, per_host=PER_HOST, resolver=resolver)
        self._health: dict[str, _Health] = {}
        self._cache = FlightCache()

    async def __aenter__(self) -> HttpCaller:
        self._pools.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends shared flights and closes the connections."""
        await self._cache.aclose()
        await self._pools.aclose()
        self._health.clear()

    async def call(
        self, ep: CompiledEndpoint, variables: Mapping[str, Any], *, deadline: float | None = None, idempotency_key: str | None = None
    ) -> Any:
        """The decoded JSON of the reply, its text when it is no JSON, None when it is empty. `deadline` is Unix seconds.

        Raises EndpointFailed. The result may come from the cache and be shared: do not change it.
        """
        began = time.monotonic()
        outcome = "cancelled"
        try:
            request = ep.prepare(variables, idempotency_key)
            left = ep.timeout if deadline is None else min(ep.timeout, deadline - time.time())
            if left <= 0:
                raise EndpointFailed(ep.name, "no time is left to ask the API", kind="timeout")
            result = await (self._cached(ep, request, left) if ep.cache_ttl else self._fetch(ep, request, left, idempotency_key))
            outcome = "ok"
            return result[1] if not ep.cache_ttl else result
        except EndpointFailed as e:
            outcome = e.kind
            raise
        finally:
            self._metrics.endpoint_calls_total.labels(ep.name, outcome).inc()
            seconds = time.monotonic() - began
            self._metrics.endpoint_seconds.labels(ep.name).observe(seconds)
            if (span := current_span()) is not NO_SPAN:
                error = None if outcome == "ok" else outcome
                told = {"http.request.method": ep.method, "server.address": ep.host, "loadsplit.endpoint": ep.name}
                span.child(f"{ep.method} {ep.name}", began=time.time() - seconds, seconds=seconds, error=error, attributes=told)

    async def _cached(self, ep: CompiledEndpoint, request: Prepared, seconds: float) -> Any:
        # headers are part of the key: they may carry who is asking
        key = f"{ep.key}\n{request.url}\n{sorted(request.headers.items())}"
        try:
            async with asyncio.timeout(seconds):
                # the shared flight has the endpoint's own time, not that of whoever happened to be first
                return await self._cache.get(key, ep.cache_ttl, lambda: self._fetch(ep, request, ep.timeout, None))
        except TimeoutError:
            raise EndpointFailed(ep.name, "the API did not answer in time", kind="timeout") from None

    async def _fetch(self, ep: CompiledEndpoint, request: Prepared, seconds: float, idempotency_key: str | None) -> tuple[int, Any]:
        """(bytes read, result) after the retries that are allowed."""
        health = self._health_of(ep)
        ends = time.monotonic() + seconds
        health.budget.request()
        retries = ep.retries if ep.repeatable(idempotency_key) else 0
        for attempt in range(retries + 1):
            try:
                return await self._attempt(ep, request, ends, health)
            except EndpointFailed as e:
                pause = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempt) * random.uniform(0.5, 1.5)
                passing = e.kind == "connect" or e.upstream_status in _AGAIN
                possible = attempt < retries and time.monotonic() + pause < ends and not health.breaker.is_open
                if not (passing and possible and health.budget.take()):
                    raise
            await asyncio.sleep(pause)
        raise EndpointFailed(ep.name, "the API could not be reached", kind="connect")

    async def _attempt(self, ep: CompiledEndpoint, request: Prepared, ends: float, health: _Health) -> tuple[int, Any]:
        """One request under the breaker's eye."""
        breaker = health.breaker
        if not breaker.allow():
            raise EndpointFailed(ep.name, "the API has failed too often and is left alone for a moment", kind="breaker_open")
        verdict: bool | None = None
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                result = await self._once(ep, request, health.session)
            verdict = True
            return result
        except TimeoutError:
            verdict = False
            raise EndpointFailed(ep.name, "the API did not answer in time", kind="timeout") from None
        except EndpointFailed as e:
            if e.kind == "connect" or (e.upstream_status or 0) >= 500:
                verdict = False
            elif e.kind not in ("egress", "bad_value"):
                verdict = True
            raise
        finally:
            was_open = breaker.is_open
            if verdict is None:
                breaker.release()
            elif verdict:
                breaker.success()
            else:
                breaker.failure()
            if breaker.is_open is not was_open:
                self._metrics.breaker_open.labels(ep.name).set(int(breaker.is_open))

    async def _once(self, ep: CompiledEndpoint, request: Prepared, session: aiohttp.ClientSession) -> tuple[int, Any]:
        """One request: its reply, read up to the cap and decoded."""
        try:
            async with session.request(
                ep.method, request.url, headers=request.headers, data=request.body, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:
                    raise EndpointFailed(ep.name, f"the API answered {response.status}", kind="status", upstream_status=response.status)
                data = await self._read(ep, response)
                result = _decode(ep, response, data)
        except FAILURES as e:
            kind, reason = reason_of(e, "the API")
            raise EndpointFailed(ep.name, reason, kind=kind) from None
        if ep.success_when is not None and not search(ep.name, ep.success_when, result):
            raise EndpointFailed(ep.name, "the API's answer says that it did not succeed", kind="not_success")
        return len(data), result

    async def _read(self, ep: CompiledEndpoint, response: aiohttp.ClientResponse) -> bytes:
        """The decompressed body, at most `max_response` bytes: reading stops there, and the connection is closed with the rest in it."""
        cap = self._max_response
        length = response.content_length
        chunks: list[bytes] = []
        size = 0
        while length is None or length <= cap:
            chunk = await response.content.readany()
            if not chunk:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            if size > cap:
                break
        response.close()
        raise EndpointFailed(ep.name, f"the API sent more than {cap} bytes", kind="too_large", upstream_status=response.status)

    def _health_of(self, ep: CompiledEndpoint) -> _Health:
        health = self._health.get(ep.key)
        if health is None:
            if len(self._health) >= MAX_STATES:  # only after very many configs: the oldest endpoint has most likely gone
                self._health.pop(next(iter(self._health)))
            health = self._health[ep.key] = _Health(self._pools.of(ep.host, ep.port))
        return health


def search(name: str, expression: Any, value: Any) -> Any:
    """What a compiled JMESPath finds. Raises EndpointFailed (bad_result) where it does not fit the value."""
    try:
        return expression.search(value)
    except (jmespath.exceptions.JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
        raise EndpointFailed(name, "the API's answer has another form than the file expects", kind="bad_result") from None


def _decode(ep: CompiledEndpoint, response: aiohttp.ClientResponse, data: bytes) -> Any:
    if not data:
        return None
    declared = "json" in response.content_type
    if not ep.as_text and (declared or data.lstrip()[:1] in (b"{", b"[")):
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            if declared:
                raise EndpointFailed(ep.name, "the API sent broken JSON", kind="bad_json", upstream_status=response.status) from None
        else:
            if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _too_deep(value):
                raise EndpointFailed(ep.name, f"the API sent JSON deeper than {MAX_DEPTH} levels", kind="bad_json")
            return value
    try:
        return data.decode(response.charset or "utf-8", "replace")
    except LookupError:  # a charset that nobody knows
        return data.decode("utf-8", "replace")


def _too_deep(value: Any) -> bool:
    """Level by level, not recursively: the nesting is what is in doubt."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [c for v in level for c in (v.values() if type(v) is dict else v) if type(c) is dict or type(c) is list]
        if not level:
            return False
    return True
