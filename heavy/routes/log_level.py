"""/admin/api/log-level: how much all processes log, changed for a time."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import parse_object
from common.errors import DependencyUnavailable, Forbidden, InvalidRequest
from common.hotstore.protocol import HotStoreUnavailable
from common.web.asgi import read_body
from common.web.log_level import LEVELS, LogLevel
from heavy.routes.state import caller_of, heavy_of

DEFAULT_SECONDS, MOST_SECONDS = 900, 86400


async def get_log_level(request: Request) -> Response:
    """The level in force, and the one that the process was started with."""
    return _told(_asked(request))


async def put_log_level(request: Request) -> Response:
    """Another level for all processes of both tiers: {"level", "seconds"?}, a quarter of an hour without a time."""
    asked = _asked(request)
    body = parse_object(await read_body(request.scope, request.receive))
    level, seconds = body.get("level"), body.get("seconds", DEFAULT_SECONDS)
    if level not in LEVELS:
        raise InvalidRequest(f"level must be one of {', '.join(LEVELS)}", field="level")
    if type(seconds) is not int or not 1 <= seconds <= MOST_SECONDS:
        raise InvalidRequest(f"seconds must be a whole number from 1 to {MOST_SECONDS}", field="seconds")
    try:
        await asked.change(level, seconds)
    except HotStoreUnavailable:
        raise DependencyUnavailable("the hot store is away: the other processes cannot be told", retry_after=1.0) from None
    return _told(asked)


async def delete_log_level(request: Request) -> Response:
    """Back to what each process was started with."""
    asked = _asked(request)
    try:
        await asked.end()
    except HotStoreUnavailable:
        raise DependencyUnavailable("the hot store is away: the other processes cannot be told", retry_after=1.0) from None
    return _told(asked)


def _asked(request: Request) -> LogLevel:
    caller = caller_of(request.scope)
    caller.need("admin")
    if caller.key_id is not None and not caller.operator:
        raise Forbidden("the log is that of all tenants: this needs an operator's key")
    return heavy_of(request.scope).log_level


def _told(level: LogLevel) -> Response:
    return JSONResponse({"level": level.now, "configured": level.configured})
