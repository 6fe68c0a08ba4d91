"""/api/v1/webhooks/deliveries: the messages to webhooks, what came of each, and sending them again."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id, parse_object
from common.contracts.webhooks import body_of
from common.errors import Conflict, InvalidRequest, NotFound
from common.web.asgi import read_body
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.turns.notes import tell_deliverers
from heavy.turns.webhooks import DeliveryRow, DeliveryStatus

MAX_LIST = 500
MAX_REPLAY = 5000  # in one request
STATUSES: dict[str, DeliveryStatus] = {"pending": "pending", "delivered": "delivered", "failed": "failed"}
_CURSOR = re.compile(r"msg_[0-9a-f]{32}\Z")


async def list_deliveries(request: Request) -> Response:
    """The messages, newest first: ?status=&webhook_id=&cursor=&limit=."""
    heavy, tenant = administrator(request)
    asked = request.query_params
    status, webhook_id, cursor = asked.get("status"), asked.get("webhook_id"), asked.get("cursor")
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(STATUSES)}", field="status")
    if cursor is not None and not _CURSOR.match(cursor):
        raise InvalidRequest("cursor must be the one of the page before", field="cursor")
    limit = number(request, "limit", 50, MAX_LIST)
    rows = await heavy.stores.deliveries.of_tenant(
        tenant,
        status=STATUSES[status] if status else None,
        webhook_id=check_id(webhook_id, "webhook_id") if webhook_id is not None else None,
        before=cursor,
        limit=limit,
    )
    return JSONResponse({"deliveries": [document(row) for row in rows], "cursor": rows[-1].delivery_id if len(rows) == limit else None})


async def get_delivery(request: Request) -> Response:
    """One message with its body, as it is sent."""
    _, _, row = await _asked(request)
    return JSONResponse({**document(row), "body": orjson.loads(body_of(row.type, row.at, row.data))})


async def replay_delivery(request: Request) -> Response:
    """Sends a message again that was delivered or has failed, with the same id; 202."""
    heavy, tenant, row = await _asked(request)
    again = await heavy.stores.deliveries.replay(tenant, row.delivery_id)
    if again is None:
        webhook = await heavy.stores.webhooks.get(tenant, row.webhook_id)
        if webhook is None:
            raise Conflict("its webhook was deleted")
        if webhook.disabled_at is not None:
            raise Conflict("its webhook is disabled; enable it first", disabled_reason=webhook.disabled_reason)
        raise Conflict("the message is on its way", next_at=row.next_at)
    await tell_deliverers(heavy.hotstore)
    return JSONResponse(document(again), 202)


async def replay_failed(request: Request) -> Response:
    """Sends all messages again that have failed, or those of one webhook, of events since a time; 202 with how many, and whether there
    are more than one request takes."""
    heavy, tenant = administrator(request)
    body = await read_body(request.scope, request.receive)
    webhook_id, since = _what_failed(parse_object(body) if body else {})
    count = await heavy.stores.deliveries.replay_failed(tenant, webhook_id=webhook_id, since=since, limit=MAX_REPLAY)
    if count:
        await tell_deliverers(heavy.hotstore)
    return JSONResponse({"replayed": count, "more": count == MAX_REPLAY}, 202)


def document(row: DeliveryRow) -> dict[str, Any]:
    """A message as an administrator sees it. `next_at` is when the next attempt is due; while one is under way, when it is given up."""
    return {
        "delivery_id": row.delivery_id,
        "webhook_id": row.webhook_id,
        "session_id": row.session_id,
        "type": row.type,
        "status": row.status,
        "attempts": row.attempts,
        "next_at": row.next_at if row.status == "pending" else None,
        "last_status": row.last_status,
        "last_error": row.last_error,
        "at": row.at,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
    }


def _what_failed(doc: dict[str, Any]) -> tuple[str | None, float]:
    webhook_id, since = doc.get("webhook_id"), doc.get("since")
    if webhook_id is not None:
        check_id(webhook_id if isinstance(webhook_id, str) else "", "webhook_id")
    return webhook_id, 0.0 if since is None else _seconds(since)


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 1e11:
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequest("since must be Unix seconds, or ISO 8601 with a time zone", field="since")


def administrator(request: Request) -> tuple[Heavy, str]:
    """The tenant that asks. Raises Unauthorized, Forbidden."""
    caller = caller_of(request.scope)
    caller.need("admin")
    return heavy_of(request.scope), caller.tenant


async def _asked(request: Request) -> tuple[Heavy, str, DeliveryRow]:
    heavy, tenant = administrator(request)
    row = await heavy.stores.deliveries.get(tenant, check_id(request.path_params["delivery_id"], "delivery_id"))
    if row is None:
        raise NotFound("there is no such message")
    return heavy, tenant, row
