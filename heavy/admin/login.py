"""Logging in to the admin pages with an API key that has the scope `admin`, logging out, the theme, and which tenant an
operator looks at.
"""

from __future__ import annotations

import contextlib
import hashlib

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from common.contracts.access import check_tenant
from common.errors import Forbidden, InvalidRequest, LoadsplitError, RateLimited, Unauthorized
from common.hotstore import keys
from common.hotstore.protocol import HotStoreUnavailable
from common.web.asgi import request_id
from heavy.admin.frame import (
    ROOT,
    THEME,
    THEMES,
    Visit,
    forget,
    keep,
    local_path,
    problem_page,
    read_form,
    render,
    same_origin,
    visits_of,
)
from heavy.routes.audited import record
from heavy.routes.state import Heavy, heavy_of
from heavy.tenants.audit import NOBODY, entry, write

# Attempts: so many at once from one address, then one each so many seconds; and from all addresses together.
BURST, EACH_SECONDS = 5, 12.0
ALL_BURST, ALL_EACH_SECONDS = 60, 1.0
MAX_KEY = 512


async def login(request: Request) -> Response:
    """GET shows the form; POST checks a key and begins a visit."""
    heavy = heavy_of(request.scope)
    if heavy.keys.empty:
        return RedirectResponse(ROOT, 303)
    if request.method != "POST":
        return _form(request)
    try:
        return await _log_in(heavy, request)
    except (Unauthorized, Forbidden, RateLimited, InvalidRequest) as e:
        return _form(request, e)
    except LoadsplitError as e:
        return problem_page(request, e, None)


async def logout(visit: Visit) -> Response:
    """Forgets the cookie."""
    response = visit.go("/login")
    forget(response)
    return response


async def theme(visit: Visit) -> Response:
    """Light, dark, or what the system says; kept by the browser."""
    response = RedirectResponse(local_path(visit.form.get("back", "")), 303)
    chosen = visit.form.get("theme", "")
    if chosen in THEMES:
        response.set_cookie(THEME, chosen, max_age=31_536_000, path=ROOT, httponly=True, samesite="strict")
    else:
        response.delete_cookie(THEME, path=ROOT)
    return response


async def choose_tenant(visit: Visit) -> Response:
    """Shows another tenant's things; an operator's key only."""
    if not visit.visitor.caller.operator:
        raise Forbidden("only an operator's key reaches other tenants")
    try:
        tenant = check_tenant(visit.form.get("tenant", "").strip())
    except ValueError as e:
        raise InvalidRequest(str(e), field="tenant") from None
    visits = visits_of(visit.heavy)
    response = visit.go("", "tenant")
    keep(response, visit.request, visits.cookie(visits.renewed(visit.visitor, tenant)))
    return response


async def _log_in(heavy: Heavy, request: Request) -> Response:
    form = await read_form(request)
    if not same_origin(request):
        raise Forbidden("this form came from another site")
    await _throttle(heavy, request)
    text = form.get("key", "").strip()
    try:
        if not text or len(text) > MAX_KEY or not text.isascii():
            raise Unauthorized("the API key is not known")
        caller = heavy.keys.authenticate([(b"authorization", b"Bearer " + text.encode())])
        caller.need("admin")
    except (Unauthorized, Forbidden) as e:
        detail = {"address": _address(request), "reason": e.detail, "request_id": request_id(request.scope)}
        await write(heavy.stores.audit, entry(tenant="*", actor=NOBODY, via="page", action="login.refused", detail=detail))
        raise
    with contextlib.suppress(HotStoreUnavailable):  # who has a key begins anew; the bucket fills by itself all the same
        await heavy.hotstore.delete(_bucket(request))
    visits = visits_of(heavy)
    visitor = visits.begin(caller)
    await record(heavy, caller, "page", "login", {}, address=_address(request))
    response = RedirectResponse(local_path(form.get("next", "")), 303)
    keep(response, request, visits.cookie(visitor))
    return response


async def _throttle(heavy: Heavy, request: Request) -> None:
    """Raises RateLimited where too many attempts came, over all replicas. Without the hot store nobody logs in: it would not be counted."""
    try:
        wait = await heavy.hotstore.throttle(_bucket(request), rate=1 / EACH_SECONDS, burst=BURST)
        wait = wait or await heavy.hotstore.throttle(keys.login("all"), rate=1 / ALL_EACH_SECONDS, burst=ALL_BURST)
    except HotStoreUnavailable:
        raise RateLimited("nobody can log in while the hot store is away", retry_after=1) from None
    if wait:
        raise RateLimited(f"too many attempts: try again in {int(wait) + 1} seconds", retry_after=wait)


def _bucket(request: Request) -> str:
    return keys.login(hashlib.sha256(_address(request).encode()).hexdigest()[:32])


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _form(request: Request, error: LoadsplitError | None = None) -> Response:
    wanted = local_path(request.query_params.get("next", ROOT))
    text = render(request, "login.html", visitor=None, error=error, wanted=wanted)
    headers = {"retry-after": str(int(error.retry_after) + 1)} if error is not None and error.retry_after else None
    return Response(text, error.status if error else 200, headers, media_type="text/html")
