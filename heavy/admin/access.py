"""Keys and quotas, and the audit log: making a key (its text is shown this once), revoking one, the limits of tenants, who changed what."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import Response

from common.contracts.access import LIMIT_NAMES, SCOPES
from common.contracts.query import check_id
from common.errors import InvalidRequest
from heavy.admin.frame import Visit
from heavy.routes.access import list_keys, list_tenants, post_key, put_tenant, revoke_key
from heavy.routes.audited import list_audit

SHOWN = 100
DAY = 86_400.0


async def keys(visit: Visit) -> Response:
    """The keys of the database and the limits of the tenants."""
    return visit.page("keys.html", **await _known(visit), made=None)


async def create(visit: Visit) -> Response:
    """Makes a key, and shows its text on the page that answers: it is told nowhere else, ever."""
    form = visit.form
    scopes = [scope for scope in SCOPES if form.get(f"scope-{scope}")]
    body: dict[str, Any] = {"tenant": form.get("tenant", "").strip(), "scopes": scopes, "name": form.get("name", "").strip()}
    limits = {name: _number(form, name) for name in ("tokens_per_day", "cost_usd_per_day")}
    body["limits"] = {name: value for name, value in limits.items() if value is not None}
    days = _number(form, "days")
    if days is not None:
        body["expires_at"] = time.time() + days * DAY
    made = await visit.change("key.create", post_key, own=True, body=body)
    return visit.page("keys.html", 201, **await _known(visit), made=made)


async def revoke(visit: Visit) -> Response:
    """Revokes a key for ever."""
    await visit.change("key.revoke", revoke_key, own=True, path={"key_id": check_id(visit.request.path_params["key_id"], "key_id")})
    return visit.go("/keys", "revoked")


async def limits(visit: Visit) -> Response:
    """Sets the limits of a tenant; what is left empty is no limit."""
    body = {name: value for name in LIMIT_NAMES if (value := _number(visit.form, name)) is not None}
    path = {"tenant": visit.form.get("tenant", "").strip()}
    await visit.change("tenant.limits", put_tenant, own=True, path=path, body=body)
    return visit.go("/keys", "limits")


async def audit(visit: Visit) -> Response:
    """Who has changed what, the newest first."""
    names = ("action", "tenant", "cursor")
    found = await visit.ask(list_audit, own=True, query={**{name: visit.query.get(name) for name in names}, "limit": SHOWN})
    return visit.page("audit.html", found=found)


async def _known(visit: Visit) -> dict[str, Any]:
    found = await visit.ask(list_keys, own=True, query={"limit": 500})
    tenants = await visit.ask(list_tenants, own=True)
    may = visit.visitor.caller.key_id is not None
    return {"keys": found["keys"], "tenants": tenants["tenants"], "scopes": SCOPES, "limit_names": LIMIT_NAMES, "may": may}


def _number(form: Any, name: str) -> float | int | None:
    value = form.get(name, "").strip()
    if not value:
        return None
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise InvalidRequest(f"{name} must be a number", field=name) from None
