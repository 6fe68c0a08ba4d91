"""What all admin pages have in common: who looks, forms and their token, errors as pages, the cookie, and templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from common.errors import Forbidden, InvalidRequest, LoadsplitError, PayloadTooLarge
from common.web.asgi import ClientDisconnected, request_id
from common.web.errors import as_loadsplit_error
from heavy.admin.asking import Endpoint, ask
from heavy.admin.shown import environment
from heavy.admin.visits import COOKIE, LONGEST_SECONDS, Visitor, Visits
from heavy.routes.audited import record
from heavy.routes.state import Heavy, heavy_of

ROOT = "/admin"
LOGIN = f"{ROOT}/login"
THEME = "loadsplit_theme"
THEMES = ("light", "dark")
MAX_FORM = 1_048_576
MAX_FIELDS = 200
# Path and name.
MENU = (
    ("", "Overview"), ("/sessions", "Sessions"), ("/turns", "Turns"), ("/desk", "Human desk"), ("/playground", "Playground"),
    ("/agents", "Agents"), ("/rules", "Rules"), ("/tasks", "Tasks"), ("/webhooks", "Webhooks"), ("/costs", "Costs"),
    ("/keys", "Keys and quotas"), ("/audit", "Audit log"),
)  # fmt: skip
# What may be told on a page after a redirect: never a text that came with the link.
SAID = {
    "accepted": "You have taken the session.", "sent": "Your message is sent.", "released": "The session is with the assistant again.",
    "retried": "The task is tried again.", "cancelled": "The task is cancelled.", "replayed": "The message is on its way again.",
    "replayed-all": "The messages that failed are on their way again.", "revoked": "The key is revoked.", "limits": "The limits are set.",
    "enabled": "The webhook is enabled.", "disabled": "The webhook is disabled.", "forgotten": "What was learned is forgotten.",
    "pushed": "The version is stored.", "activated": "The version is active.", "rolled-back": "The version before is active again.",
    "canary": "The canary is set.", "tenant": "Another tenant's things are shown.", "erased": "The session is erased.",
    "ended": "The turn is asked to end.",
    "sent-test": "A test message is on its way.",
}  # fmt: skip


@dataclass(slots=True)
class Visit:
    """One request for a page."""

    heavy: Heavy
    request: Request
    visitor: Visitor
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters that are not empty."""
        return {name: value.strip() for name, value in self.request.query_params.items() if value.strip()}

    async def ask(self, endpoint: Endpoint, *, own: bool = False, **asked: Any) -> Any:
        """What an endpoint of the API answers, for the tenant that is shown. With `own` it is asked with the visitor's own key: an
        operator's reaches all tenants then."""
        caller = self.visitor.caller if own else self.visitor.acting
        return await ask(self.heavy, caller, endpoint, request_id=request_id(self.request.scope), **asked)

    async def change(
        self, action: str, endpoint: Endpoint, *, own: bool = False, told: Mapping[str, Any] | None = None, **asked: Any
    ) -> Any:
        """The same for an endpoint that changes something; the change goes into the audit log, with `told`."""
        found = await self.ask(endpoint, own=own, **{"body": {}, **asked})
        document = {**(found if isinstance(found, Mapping) else {}), **asked.get("path", {})}
        if not own:
            document["tenant"] = self.visitor.tenant
        await record(self.heavy, self.visitor.caller, "page", action, document, **(told or {}))
        return found

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """The rendered template."""
        return HTMLResponse(render(self.request, template, visitor=self.visitor, **values), status)

    def go(self, path: str, said: str = "", **query: str) -> Response:
        """Sends the browser to another page, which tells what has been done."""
        asked = urlencode({**query, **({"said": said} if said else {})})
        return RedirectResponse(f"{ROOT}{path}" + (f"?{asked}" if asked else ""), 303)


Page = Callable[[Visit], Awaitable[Response]]


def page(show: Page) -> Endpoint:
    """The endpoint of a page: lets in who has logged in, checks a form's token and origin, and shows errors as pages."""
    return partial(_serve, show)


async def _serve(show: Page, request: Request) -> Response:
    heavy = heavy_of(request.scope)
    visits = visits_of(heavy)
    given = request.cookies.get(COOKIE)
    visitor = visits.read(given) or visits.anyone()
    if visitor is None:
        return _to_login(request)
    try:
        form = await read_form(request) if request.method == "POST" else {}
        if request.method == "POST" and not (same_origin(request) and visits.holds(visitor, form.get("token", ""))):
            raise Forbidden("this form is out of date, or came from another site: go back, load the page again and repeat it")
        response = await show(Visit(heavy, request, visitor, form))
    except LoadsplitError as e:
        response = problem_page(request, e, visitor)
    if COOKIE not in response.headers.get("set-cookie", "") and (given is None or "hx-request" not in request.headers):
        keep(response, request, visits.cookie(visits.renewed(visitor)))
    return response


def visits_of(heavy: Heavy) -> Visits:
    """What reads the cookies of this process."""
    return Visits(heavy.keys, heavy.settings.ticket_key)


def problem_page(request: Request, error: LoadsplitError, visitor: Visitor | None) -> Response:
    """An error as a page; in place of a fragment, as a fragment."""
    error = as_loadsplit_error(error, request_id(request.scope))
    template = "problem_fragment.html" if "hx-request" in request.headers else "problem.html"
    problems = error.extra.get("problems") or []
    text = render(request, template, visitor=visitor, error=error, problems=problems, request_id=request_id(request.scope))
    return HTMLResponse(text, error.status, {"retry-after": str(int(error.retry_after) + 1)} if error.retry_after else None)


def render(request: Request, template: str, *, visitor: Visitor | None, **values: Any) -> str:
    """A template as text. `said` in the query names one of SAID."""
    path = request.url.path.removeprefix(ROOT).rstrip("/")
    here = next(
        (where for where, _ in reversed(MENU) if where and (path == where or path.startswith(where + "/"))), "" if not path else None
    )
    theme = request.cookies.get(THEME)
    common = {
        "root": ROOT,
        "menu": MENU,
        "here": here,
        "visitor": visitor,
        "theme": theme if theme in THEMES else None,
        "told": SAID.get(request.query_params.get("said", "")),
        "asked": request.query_params,
        "back": request.url.path,
    }
    return environment().get_template(template).render({**common, **values})


def keep(response: Response, request: Request, cookie: str) -> None:
    """Gives the browser the cookie: not for scripts, not for other sites, over TLS only where the page came so."""
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(LONGEST_SECONDS),
        path=ROOT,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def forget(response: Response) -> None:
    """Takes the cookie away."""
    response.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises InvalidRequest, PayloadTooLarge."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidRequest("a form must come as application/x-www-form-urlencoded")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                raise PayloadTooLarge(f"the form is larger than {MAX_FORM} bytes")
    except ClientDisconnect:
        raise ClientDisconnected from None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, strict_parsing=False, errors="strict")
    except ValueError:
        raise InvalidRequest("the form cannot be read") from None
    return dict(pairs)


def same_origin(request: Request) -> bool:
    """Whether a page of ours sent the form. Browsers say where a POST comes from; other clients need the token all the same."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def local_path(value: str) -> str:
    """A path of these pages to go on to: never another site."""
    return value if value.startswith(ROOT) and not value.startswith(LOGIN) and "\\" not in value and "//" not in value else ROOT


def _to_login(request: Request) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"hx-redirect": LOGIN})
    wanted = request.url.path if request.method == "GET" and request.url.path != ROOT else ""
    return RedirectResponse(LOGIN + ("?" + urlencode({"next": wanted}) if wanted else ""), 303)
