"""Pages and what they load carry the headers that bind a browser, errors too; the rest of the API is left as it is."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import Forbidden
from common.web.errors import exception_handlers
from common.web.middleware import Edge
from common.web.security_headers import HEADERS, POLICY, SecurityHeaders
from tests.common.web.calls import call

NAMES = {name.decode() for name, _ in HEADERS}


async def said(request: Request) -> Response:
    return Response("<p>hello</p>", media_type="text/html")


async def strict(request: Request) -> Response:
    return Response("", headers={"Content-Security-Policy": "default-src 'none'", "Cache-Control": "max-age=60"})


async def refused(request: Request) -> Response:
    raise Forbidden("not here")


async def broken(request: Request) -> Response:
    raise RuntimeError("a secret that nobody reads")


def app() -> Starlette:
    paths = ("/", "/assets/app.js", "/docs", "/admin", "/admin/sessions", "/api/v1/health", "/administrator", "/v1/models")
    return Starlette(
        routes=[
            *(Route(path, said) for path in paths),
            Route("/admin/strict", strict),
            Route("/admin/refused", refused),
            Route("/admin/broken", broken),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(Edge, tier="heavy", config_hash=lambda: "c0ffee")],
        exception_handlers=exception_handlers(),
    )


@pytest.mark.parametrize(
    "path", ["/", "/assets/app.js", "/docs", "/admin", "/admin/sessions", "/admin/refused", "/admin/broken", "/admin/nothing"]
)
async def test_a_page_is_bound(path: str) -> None:
    reply = await call(app(), "GET", path)
    assert set(reply.headers) >= NAMES
    assert reply.headers["content-security-policy"] == POLICY
    assert (reply.headers.get("cache-control") == "no-store") is path.startswith("/admin")


@pytest.mark.parametrize("path", ["/api/v1/health", "/v1/models", "/administrator", "/nothing"])
async def test_the_api_is_left_as_it_is(path: str) -> None:
    assert not NAMES & set((await call(app(), "GET", path)).headers)


async def test_what_a_page_sets_itself_stays() -> None:
    headers = (await call(app(), "GET", "/admin/strict")).headers
    assert headers["content-security-policy"] == "default-src 'none'"
    assert headers["cache-control"] == "max-age=60"
    assert headers["x-content-type-options"] == "nosniff"


def test_the_policy_allows_nothing_inline_and_no_frame() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert "unsafe" not in POLICY
    assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'")
    assert (rules["frame-ancestors"], rules["base-uri"], rules["form-action"]) == ("'none'", "'none'", "'self'")
