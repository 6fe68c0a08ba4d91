"""The headers that tell a browser what a page may do: no script but our own files, no frame, no guessing of types, no referrer to others.

Pure ASGI, around everything else, so that errors carry them too. It knows where pages are, not what is on them.
"""

from __future__ import annotations

from common.web.asgi import Message, Receive, Scope, Send
from common.web.middleware import ASGIApp

PAGES, FOLDERS = frozenset({"/", "/docs", "/admin"}), ("/admin/", "/assets/")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # for browsers that do not know frame-ancestors
    # Not `no-referrer`: with that a form's POST says `Origin: null`, and its origin could not be checked.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
)
ADMIN = ((b"cache-control", b"no-store"),)


class SecurityHeaders:
    """Middleware: adds to every reply at the path of a page what it does not set itself; under /admin also that nothing is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; other protocols and other paths pass through."""
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self._app(scope, receive, send)  # type: ignore[misc]
            return
        headers = HEADERS + ADMIN if scope["path"].startswith("/admin") else HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                there = {name.lower() for name, _ in given}
                message["headers"] = [*given, *(pair for pair in headers if pair[0] not in there)]
            await send(message)

        await self._app(scope, receive, send_with_headers)  # type: ignore[misc]


def is_page(path: str) -> bool:
    """Whether a browser shows what is at that path, or loads it for a page."""
    return path in PAGES or path.startswith(FOLDERS)
