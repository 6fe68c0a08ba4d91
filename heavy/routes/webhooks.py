"""/api/v1/webhooks: who is told of a tenant's events. Registering, changing, trying out, and the secret that signs where none was given.

All of it needs the scope `admin`. A webhook's own secret is shown once, when it is registered.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id, new_turn_id, parse_object
from common.contracts.webhooks import TEST_EVENT, tenant_secret
from common.errors import Conflict, InvalidRequest, NotFound
from common.web.asgi import read_body
from heavy.jobs.webhook_fields import parse_change, parse_registration
from heavy.routes.deliveries import administrator
from heavy.routes.deliveries import document as delivery_document
from heavy.routes.sessions import number
from heavy.routes.state import Heavy
from heavy.turns.notes import tell_deliverers
from heavy.turns.webhooks import DELETED, DISABLED, WebhookKind, WebhookRow

MOST = 100  # of one tenant: every event asks each of them
MAX_LIST = 500
KINDS: dict[str, WebhookKind] = {"tenant": "tenant", "request": "request"}


async def register_webhook(request: Request) -> Response:
    """Registers a webhook; 201 with its secret."""
    heavy, tenant = administrator(request)
    receiver = parse_registration(parse_object(await read_body(request.scope, request.receive)), heavy.given_urls)
    row = await heavy.stores.webhooks.add(tenant, f"wh_{new_turn_id()[2:]}", receiver, most=MOST)
    if row is None:
        raise Conflict(f"there are {MOST} webhooks, and there may be no more: delete one first")
    return JSONResponse({**document(row), "secret": receiver.secret}, 201)


async def list_webhooks(request: Request) -> Response:
    """The tenant's webhooks by their ids, those that came with requests too: ?kind=&cursor=&limit=."""
    heavy, tenant = administrator(request)
    kind = request.query_params.get("kind")
    if kind is not None and kind not in KINDS:
        raise InvalidRequest(f"kind must be one of {', '.join(KINDS)}", field="kind")
    limit, after = number(request, "limit", 50, MAX_LIST), request.query_params.get("cursor")
    rows = await heavy.stores.webhooks.of_tenant(
        tenant, kind=KINDS[kind] if kind else None, after=check_id(after, "cursor") if after is not None else "", limit=limit
    )
    cursor = rows[-1].webhook_id if len(rows) == limit else None
    return JSONResponse({"webhooks": [document(row) for row in rows], "cursor": cursor})


async def get_webhook(request: Request) -> Response:
    """One webhook, without its secret."""
    _, _, row = await _asked(request)
    return JSONResponse(document(row))


async def change_webhook(request: Request) -> Response:
    """Another URL, other events, another description, enabled or not. What waits for a disabled one fails; it can be replayed."""
    heavy, tenant, row = await _asked(request)
    change = parse_change(parse_object(await read_body(request.scope, request.receive)), heavy.given_urls)
    changed = await heavy.stores.webhooks.change(tenant, row.webhook_id, change)
    if changed is None:
        raise _unknown()
    if change.enabled is False:
        await heavy.stores.deliveries.abandon(tenant, row.webhook_id, DISABLED)
    return JSONResponse(document(changed))


async def delete_webhook(request: Request) -> Response:
    """Forgets a webhook. What waits for it fails; the list of messages keeps what was sent."""
    heavy, tenant, row = await _asked(request)
    if not await heavy.stores.webhooks.delete(tenant, row.webhook_id):
        raise _unknown()
    await heavy.stores.deliveries.abandon(tenant, row.webhook_id, DELETED)
    return JSONResponse({"status": "deleted"})


async def send_test(request: Request) -> Response:
    """Sends a webhook.test event the way of all others; 202 with the message."""
    heavy, tenant, row = await _asked(request)
    data = orjson.dumps({"webhook_id": row.webhook_id}).decode()
    sent = await heavy.stores.deliveries.send(tenant, f"msg_{new_turn_id()[2:]}", row.webhook_id, TEST_EVENT, data)
    if sent is None:
        raise Conflict("the webhook is disabled; enable it first", disabled_reason=row.disabled_reason)
    await tell_deliverers(heavy.hotstore)
    return JSONResponse(delivery_document(sent), 202)


async def show_secret(request: Request) -> Response:
    """The tenant's own secret: it signs for the webhooks of requests that bring none."""
    heavy, tenant = administrator(request)
    return JSONResponse({"secret": tenant_secret(heavy.settings.ticket_key, tenant)}, headers={"cache-control": "no-store"})


def document(row: WebhookRow) -> dict[str, Any]:
    """A webhook as an administrator sees it."""
    return {
        "webhook_id": row.webhook_id,
        "kind": row.kind,
        "url": row.receiver.url,
        "events": list(row.receiver.events),
        "description": row.receiver.description,
        "enabled": row.disabled_at is None,
        "created_at": row.created_at,
        "failing_since": row.failing_since,
        "disabled_at": row.disabled_at,
        "disabled_reason": row.disabled_reason,
    }


async def _asked(request: Request) -> tuple[Heavy, str, WebhookRow]:
    heavy, tenant = administrator(request)
    row = await heavy.stores.webhooks.get(tenant, check_id(request.path_params["webhook_id"], "webhook_id"))
    if row is None:
        raise _unknown()
    return heavy, tenant, row


def _unknown() -> NotFound:
    return NotFound("there is no such webhook")
