"""The admin endpoints of API keys and tenants. A key with the scope `admin` reaches its own tenant; an operator's (tenant `*`) reaches all,
and only it sets limits. Without keys nobody changes anything here: the first key is made by `loadsplit keys create`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.access import LIMIT_NAMES, check_key, check_key_limits, check_limits, check_tenant
from common.contracts.query import check_id, parse_object
from common.errors import Forbidden, InvalidRequest, NotFound
from common.web.asgi import read_body
from common.web.auth import Caller
from heavy.llm.today import NOTHING, spent_today
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.tenants.keys import create_key, state_of
from heavy.tenants.stores import KeyRow

MAX_KEYS, MAX_TENANTS = 1000, 500
T = TypeVar("T")


async def post_key(request: Request) -> Response:
    """Makes a key; 201 with its text, which is told this once."""
    heavy, caller = _changing(request)
    doc = parse_object(await read_body(request.scope, request.receive))
    tenant = doc.get("tenant", None if caller.operator else caller.tenant)
    if not caller.operator and tenant != caller.tenant:
        raise Forbidden("this key makes keys of its own tenant only")
    tenant = _checked("tenant", lambda: check_tenant(tenant))
    _, scopes = _checked("scopes", lambda: check_key(tenant, doc.get("scopes", ["query"])))
    name, expires_at = doc.get("name", ""), doc.get("expires_at")
    limits = _checked("limits", lambda: check_key_limits(doc.get("limits") or {}))
    if not isinstance(name, str):
        raise InvalidRequest("name must be a string", field="name")
    if expires_at is not None and (isinstance(expires_at, bool) or not isinstance(expires_at, int | float)):
        raise InvalidRequest("expires_at must be Unix seconds", field="expires_at")
    try:
        text, row = await create_key(heavy.stores.access, tenant=tenant, scopes=scopes, name=name, expires_at=expires_at, limits=limits)
    except ValueError as e:
        raise InvalidRequest(str(e), field=str(e).split()[0]) from None
    await heavy.access.catch_up()
    return JSONResponse({**document(row), "key": text}, 201, headers={"cache-control": "no-store"})


async def list_keys(request: Request) -> Response:
    """The keys, the newest first, revoked and expired ones too: ?tenant=&limit="""
    heavy, caller = _admin(request)
    rows = await heavy.stores.access.keys(reach(caller, request), limit=number(request, "limit", MAX_KEYS, MAX_KEYS))
    return JSONResponse({"keys": [document(row) for row in rows]})


async def revoke_key(request: Request) -> Response:
    """Revokes a key for ever. All replicas know within two seconds."""
    heavy, caller = _changing(request)
    key_id = check_id(request.path_params["key_id"], "key_id")
    row = await heavy.stores.access.revoke(None if caller.operator else caller.tenant, key_id)
    if row is None:
        raise NotFound("there is no such key")
    await heavy.access.catch_up()
    return JSONResponse(document(row))


async def list_tenants(request: Request) -> Response:
    """The tenants that have keys or limits in the database, with what they have spent today: ?tenant="""
    heavy, caller = _admin(request)
    asked = reach(caller, request)
    names = [row.tenant for row in await heavy.stores.access.tenants(asked, limit=MAX_TENANTS)]
    if not caller.operator and asked == caller.tenant and not names:
        names = [caller.tenant]
    return JSONResponse({"tenants": await _tenants(heavy, names)})


async def put_tenant(request: Request) -> Response:
    """Sets the limits of a tenant to those of the body; those that are not named, or null, are none."""
    heavy, caller = _changing(request)
    if not caller.operator:
        raise Forbidden("the limits of a tenant are set by an operator's key, or by `loadsplit tenants set`")
    tenant = _checked("tenant", lambda: check_tenant(request.path_params["tenant"]))
    doc = parse_object(await read_body(request.scope, request.receive))
    limits: dict[str, Any] = dict.fromkeys(LIMIT_NAMES)
    for name, value in doc.items():
        limits |= _checked(name[:64], lambda name=name, value=value: check_limits({name: value}))  # type: ignore[misc]
    await heavy.stores.access.set_limits(tenant, limits)
    await heavy.access.catch_up()
    return JSONResponse((await _tenants(heavy, [tenant]))[0])


def document(row: KeyRow) -> dict[str, Any]:
    """A key as an administrator sees it."""
    return {**asdict(row), "scopes": list(row.scopes), "state": state_of(row)}


def reach(caller: Caller, request: Request) -> str | None:
    """The tenant that is asked for, None for all; another tenant's than the caller's own has nothing in it."""
    asked = request.query_params.get("tenant")
    if asked is not None:
        _checked("tenant", lambda: check_tenant(asked))
    if caller.operator:
        return asked
    return caller.tenant if asked in (None, caller.tenant) else ""


async def _tenants(heavy: Heavy, names: list[str]) -> list[dict[str, Any]]:
    """Tenants with the limits that are in force, which may also be the key file's."""
    today = await spent_today(heavy.stores.ledger, names[0] if len(names) == 1 else None)
    return [{"tenant": name, "limits": asdict(heavy.keys.limits_of(name)), "today": today.get(name, NOTHING)} for name in names]


def _admin(request: Request) -> tuple[Heavy, Caller]:
    caller = caller_of(request.scope)
    caller.need("admin")
    return heavy_of(request.scope), caller


def _changing(request: Request) -> tuple[Heavy, Caller]:
    heavy, caller = _admin(request)
    if caller.key_id is None:
        raise Forbidden("no API key is configured: make the first one with `loadsplit keys create`")
    return heavy, caller


def _checked(field: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except ValueError as e:
        raise InvalidRequest(str(e), field=field) from None
