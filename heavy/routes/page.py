"""The chat page: three static files, read once. It has no build step and asks nothing of any other host.

What a browser may do with it says common/web/security_headers.py.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from common.errors import NotFound

FOLDER = Path(__file__).resolve().parent.parent / "page"
UTF8 = "; charset=utf-8"
TYPES = {".html": "text/html" + UTF8, ".js": "text/javascript" + UTF8, ".css": "text/css" + UTF8, ".svg": "image/svg+xml"}


async def index(request: Request) -> Response:
    """GET /"""
    return _file("index.html")


async def asset(request: Request) -> Response:
    """GET /assets/{name}"""
    name = request.path_params["name"]
    if name not in {path.name for path in FOLDER.iterdir()}:
        raise NotFound("there is nothing at this path")
    return _file(name)


def _file(name: str) -> Response:
    path = FOLDER / name
    return Response(path.read_bytes(), headers={"cache-control": "no-cache", "content-type": TYPES[path.suffix]})
