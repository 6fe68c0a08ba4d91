"""GET /admin/api/purge: what is erased when it is too old, and how far the last purge has come."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.errors import Forbidden
from heavy.jobs.upkeep import Purged
from heavy.routes.state import caller_of, heavy_of


async def get_purge(request: Request) -> Response:
    """The retention of this process, and the last purge of all: it concerns every tenant, so that it needs an operator's key."""
    caller = caller_of(request.scope)
    caller.need("admin")
    if caller.key_id is not None and not caller.operator:
        raise Forbidden("a purge concerns all tenants: this needs an operator's key")
    heavy = heavy_of(request.scope)
    last = await heavy.stores.upkeep.last()
    settings = heavy.settings
    keeps = {"retention_days": settings.retention_days or None, "record_days": settings.record_days or None}
    return JSONResponse({**keeps, "last": _document(last) if last else None})


def _document(purged: Purged) -> dict[str, Any]:
    done = purged.progress
    return {
        "status": "running" if purged.finished_at is None else "finished",
        "started_at": purged.started_at,
        "finished_at": purged.finished_at,
        "sessions_looked_at": done.looked,
        "erased": {"sessions": done.sessions, "turns": done.turns, "records": done.records},
    }
