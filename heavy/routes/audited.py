"""What an administrator changes is written into the audit log, through the API and through pages alike, and what is in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id
from common.errors import InvalidRequest
from common.web.auth import Caller
from heavy.routes.access import reach
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.tenants.audit import AuditEntry, Via, actor_of, entry, write

Handler = Callable[[Request], Awaitable[Response]]
MAX_ENTRIES = 500
# Of what an endpoint answers: by what the changed thing is named, and what is told of the change. Never a secret or a key's text.
NAMES = ("key_id", "webhook_id", "delivery_id", "task_id", "session_id", "turn_id", "tenant")
TOLD = (
    "name", "scopes", "expires_at", "limits", "state", "status", "url", "events", "enabled", "replayed", "forgotten", "agent_id", "version",
    "hash", "active", "canary", "level", "until", "percent", "canary_percent",
)  # fmt: skip


def audited(action: str, handler: Handler) -> Handler:
    """The handler, with an entry behind each change that it has made."""

    async def serve(request: Request) -> Response:
        response = await handler(request)
        if request.query_params.get("dry_run") in ("true", "1"):  # it has changed nothing
            return response
        caller = caller_of(request.scope)
        document = orjson.loads(response.body) if response.body else {}
        await record(heavy_of(request.scope), caller, "api", action, {**request.path_params, **document})
        return response

    return serve


async def record(heavy: Heavy, caller: Caller, via: Via, action: str, document: Mapping[str, Any], **more: Any) -> None:
    """Writes what has been changed; `document` is what the endpoint has answered, with the parameters of its path."""
    subject = next((str(document[name]) for name in (*NAMES, "agent_id") if document.get(name) is not None), "")
    detail = {name: document[name] for name in TOLD if document.get(name) is not None} | more
    tenant = document.get("tenant")
    made = entry(
        tenant=tenant if isinstance(tenant, str) else caller.tenant,
        actor=actor_of(caller.tenant, caller.key_id),
        via=via,
        action=action,
        subject=subject,
        detail=detail,
    )
    await write(heavy.stores.audit, made)


async def list_audit(request: Request) -> Response:
    """The log, the newest first: ?action=&tenant=&cursor=&limit=. `action` is the beginning of a name, such as key."""
    caller = caller_of(request.scope)
    caller.need("admin")
    limit, cursor = number(request, "limit", 100, MAX_ENTRIES), request.query_params.get("cursor")
    action = request.query_params.get("action") or None
    if action is not None and len(action) > 64:
        raise InvalidRequest("action must be at most 64 characters", field="action")
    rows = await heavy_of(request.scope).stores.audit.page(
        reach(caller, request), action=action, before=check_id(cursor, "cursor") if cursor else None, limit=limit
    )
    more = rows[-1].audit_id if len(rows) == limit else None
    return JSONResponse({"entries": [_document(row) for row in rows], "next_cursor": more})


def _document(row: AuditEntry) -> dict[str, Any]:
    return {
        "audit_id": row.audit_id,
        "at": row.at,
        "tenant": row.tenant,
        "actor": row.actor,
        "via": row.via,
        "action": row.action,
        "subject": row.subject,
        "detail": orjson.loads(row.detail),
    }
