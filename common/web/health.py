"""Handlers of /livez, /readyz, /api/v1/health and /metrics. What is checked is given by each tier; nothing is known of it here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from common.errors import DependencyUnavailable, Overloaded
from common.telemetry.metrics import CONTENT_TYPE, Metrics
from common.web.middleware import InFlight

Handler = Callable[[Request], Awaitable[Response]]
Check = Callable[[], Awaitable[Any]]
CHECK_SECONDS = 2.0
_NO_STORE = {"cache-control": "no-store"}


def livez() -> Handler:
    """200 as long as the event loop turns."""

    async def handler(request: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain", headers=_NO_STORE)

    return handler


def readyz(inflight: InFlight, checks: Mapping[str, Check] | None = None) -> Handler:
    """200 when new requests are welcome; 503 as a problem while draining or while one of `checks` (what it cannot serve without) fails."""

    async def handler(request: Request) -> Response:
        if inflight.draining:
            raise Overloaded("this process is draining", retry_after=1.0)
        results = await run_checks(checks or {})
        if failed := sorted(name for name, result in results.items() if not result["ok"]):
            raise DependencyUnavailable(f"not ready: {', '.join(failed)}", retry_after=1.0)
        return Response(b"ready\n", media_type="text/plain", headers=_NO_STORE)

    return handler


def health(
    tier: str,
    config_hash: Callable[[], str],
    checks: Mapping[str, Check] | None = None,
    sessions_count: Callable[[], Awaitable[int | None]] | None = None,
) -> Handler:
    """{status, config_hash, sessions_count, tier, checks}: `degraded` when a check fails. Always 200: it reports, `readyz` decides."""

    async def handler(request: Request) -> Response:
        results = await run_checks(checks or {})
        count: int | None = 0
        if sessions_count is not None:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    count = await sessions_count()
            except (DependencyUnavailable, TimeoutError):
                count = None
        document = {
            "status": "healthy" if all(r["ok"] for r in results.values()) else "degraded",
            "config_hash": config_hash(),
            "sessions_count": count,
            "tier": tier,
            "checks": results,
        }
        return Response(orjson.dumps(document), media_type="application/json", headers=_NO_STORE)

    return handler


def metrics_page(metrics: Metrics) -> Handler:
    """The Prometheus page: of all processes that serve this port."""

    async def handler(request: Request) -> Response:
        page = await metrics.of_all_workers() if metrics.of_all_workers else metrics.render()
        return Response(page, headers={"content-type": CONTENT_TYPE})

    return handler


async def run_checks(checks: Mapping[str, Check]) -> dict[str, dict[str, Any]]:
    """name → {ok, ms, error?}, all at once, each within CHECK_SECONDS. A check fails by raising DependencyUnavailable or OSError."""
    results = await asyncio.gather(*(_one(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


async def _one(check: Check) -> dict[str, Any]:
    began = time.perf_counter()
    error: str | None = None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except DependencyUnavailable as e:
        error = e.detail
    except TimeoutError:
        error = "it did not answer in time"
    except OSError:
        error = "it cannot be reached"
    took = {"ok": error is None, "ms": round((time.perf_counter() - began) * 1000, 2)}
    return took if error is None else {**took, "error": error}
