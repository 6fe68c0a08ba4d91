"""Health, readiness, metrics, the API document and its page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from common.errors import DependencyUnavailable
from common.telemetry.metrics import Metrics
from common.web import health as health_module
from common.web.errors import exception_handlers
from common.web.health import health, livez, metrics_page, readyz
from common.web.middleware import InFlight
from common.web.openapi import docs, openapi_json
from tests.common.web.calls import call


async def works() -> float:
    return 0.001


async def away() -> float:
    raise DependencyUnavailable("the database is away")


async def hangs() -> float:
    await asyncio.Event().wait()
    return 0.0


async def count() -> int:
    return 7


async def no_count() -> int:
    raise DependencyUnavailable


def app(checks: dict[str, Callable[[], Awaitable[Any]]], inflight: InFlight | None = None, sessions: Any = count) -> Starlette:
    return Starlette(
        routes=[
            Route("/livez", livez()),
            Route("/readyz", readyz(inflight or InFlight(), checks)),
            Route("/api/v1/health", health("heavy", lambda: "c0ffee", checks, sessions)),
            Route("/metrics", metrics_page(Metrics())),
            Route("/openapi.json", openapi_json),
            Route("/docs", docs),
        ],
        exception_handlers=exception_handlers(),
    )


async def test_all_is_well() -> None:
    it = app({"database": works})
    assert (await call(it, "GET", "/livez")).status == 200
    assert (await call(it, "GET", "/readyz")).status == 200
    told = (await call(it, "GET", "/api/v1/health")).json
    assert told["checks"]["database"]["ok"] is True
    del told["checks"]
    assert told == {"status": "healthy", "config_hash": "c0ffee", "sessions_count": 7, "tier": "heavy"}


async def test_a_dependency_is_away() -> None:
    it = app({"database": away, "hotstore": works}, sessions=no_count)
    ready = await call(it, "GET", "/readyz")
    assert (ready.status, ready.json["code"], ready.json["detail"]) == (503, "dependency_unavailable", "not ready: database")
    told = await call(it, "GET", "/api/v1/health")
    assert (told.status, told.json["status"], told.json["sessions_count"]) == (200, "degraded", None)
    assert told.json["checks"]["database"]["error"] == "the database is away"
    assert (await call(it, "GET", "/livez")).status == 200


async def test_a_check_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "CHECK_SECONDS", 0.05)
    assert (await call(app({"hotstore": hangs}), "GET", "/api/v1/health")).json["checks"]["hotstore"][
        "error"
    ] == "it did not answer in time"


async def test_draining() -> None:
    ready = await call(app({}, InFlight(draining=True)), "GET", "/readyz")
    assert (ready.status, ready.json["code"]) == (503, "overloaded")


async def test_metrics_page() -> None:
    page = await call(app({}), "GET", "/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"# HELP loadsplit_requests_total" in page.body


PATHS = {
    "/api/v1/query": {"post"},
    "/api/v1/query/stream": {"post"},
    "/v1/chat/completions": {"post"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/v1/messages": {"post"},
    "/v1/messages/count_tokens": {"post"},
    "/api/v1/turns/{turn_id}": {"get"},
    "/api/v1/turns/{turn_id}/stream": {"get"},
    "/api/v1/turns/{turn_id}/cancel": {"post"},
    "/api/v1/turns/{turn_id}/approval": {"post"},
    "/api/v1/query/async": {"post"},
    "/api/v1/tasks": {"get"},
    "/api/v1/task/{task_id}": {"get", "delete"},
    "/api/v1/task/{task_id}/retry": {"post"},
    "/api/v1/batch": {"post"},
    "/api/v1/batch/{batch_id}": {"get", "delete"},
    "/api/v1/batch/{batch_id}/results": {"get"},
    "/api/v1/schedules": {"get", "post"},
    "/api/v1/schedules/{schedule_id}": {"get", "patch", "delete"},
    "/api/v1/session/{session_id}": {"get", "delete"},
    "/api/v1/session/{session_id}/events": {"get"},
    "/api/v1/session/{session_id}/ws": {"get"},
    "/api/v1/session/{session_id}/handoff": {"post"},
    "/api/v1/sessions": {"get"},
    "/api/v1/webhooks": {"post", "get"},
    "/api/v1/webhooks/secret": {"get"},
    "/api/v1/webhooks/deliveries": {"get"},
    "/api/v1/webhooks/deliveries/replay": {"post"},
    "/api/v1/webhooks/deliveries/{delivery_id}": {"get"},
    "/api/v1/webhooks/deliveries/{delivery_id}/replay": {"post"},
    "/api/v1/webhooks/{webhook_id}": {"get", "patch", "delete"},
    "/api/v1/webhooks/{webhook_id}/test": {"post"},
    "/admin/api/webhooks": {"get"},
    "/admin/api/agents": {"get"},
    "/admin/api/agents/{agent_id}": {"get"},
    "/admin/api/agents/{agent_id}/config": {"put"},
    "/admin/api/agents/{agent_id}/versions": {"get"},
    "/admin/api/agents/{agent_id}/versions/{version}": {"get"},
    "/admin/api/agents/{agent_id}/activate": {"post"},
    "/admin/api/agents/{agent_id}/rollback": {"post"},
    "/admin/api/agents/{agent_id}/diff": {"post"},
    "/admin/api/agents/{agent_id}/comparison": {"get"},
    "/admin/api/agents/{agent_id}/learned": {"get", "delete"},
    "/admin/api/agents/{agent_id}/learned/proposals": {"get"},
    "/admin/api/agents/{agent_id}/match": {"post"},
    "/admin/api/keys": {"post", "get"},
    "/admin/api/keys/{key_id}": {"delete"},
    "/admin/api/tenants": {"get"},
    "/admin/api/tenants/{tenant}": {"put"},
    "/admin/api/costs": {"get"},
    "/admin/api/calls": {"get"},
    "/admin/api/turns": {"get"},
    "/admin/api/turns/{turn_id}": {"get"},
    "/admin/api/stats": {"get"},
    "/admin/api/log-level": {"get", "put", "delete"},
    "/admin/api/purge": {"get"},
    "/admin/api/sessions": {"get"},
    "/admin/api/audit": {"get"},
    "/api/v1/health": {"get"},
    "/livez": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


async def test_the_api_document_is_whole() -> None:
    document = (await call(app({}), "GET", "/openapi.json")).json
    assert {p: set(m) for p, m in document["paths"].items()} == PATHS

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [r for k, v in node.items() for r in ([v] if k == "$ref" else refs(v))]
        return [r for v in node for r in refs(v)] if isinstance(node, list) else []

    for ref in refs(document):
        found = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]
        assert found


async def test_the_page_shows_it_and_needs_nothing_else() -> None:
    page = await call(app({}), "GET", "/docs")
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    for path in PATHS:
        assert f"<code>{path}</code>" in text
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#|/openapi\.json)[^"]*"', text) == []
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{anchor}"' in text
