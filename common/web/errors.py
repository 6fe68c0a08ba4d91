"""Errors as HTTP: each leaves as an RFC 9457 problem (below /v1/ in the shape that clients of LLM APIs expect), and what is not of our tree
as `internal`, with its cause in the log only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from common.contracts.idempotency import REPLAYED
from common.contracts.llm_errors import error_document
from common.contracts.problem import MEDIA_TYPE, problem
from common.errors import (
    Forbidden,
    Internal,
    InvalidRequest,
    LoadsplitError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from common.web.asgi import request_id

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
_OF_STATUS: Mapping[int, type[LoadsplitError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}
_TEXT_OF_STATUS = {404: "there is nothing at this path", 405: "this path does not take that method"}


def problem_response(error: LoadsplitError, request_id: str, path: str = "") -> tuple[int, Headers, bytes]:
    """(status, headers, body) of an error. A 429 or 503 carries Retry-After, whole seconds, at least 1; a 401 names the scheme.

    `path` is what was asked for: below /v1/ the body is not a problem, and the official clients find what they look for: x-should-retry,
    request-id."""
    document, media_type = error_document(path, error, request_id), b"application/json"
    if document is None:
        document, media_type = problem(error, request_id), MEDIA_TYPE.encode()
    headers: Headers = [(b"content-type", media_type), (b"cache-control", b"no-store"), (b"x-request-id", request_id.encode())]
    if media_type == b"application/json":
        headers += [(b"x-should-retry", b"true" if error.retryable else b"false"), (b"request-id", request_id.encode())]
    after = error.retry_after
    if after is None and error.status in (429, 503):
        after = 1.0
    if after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(after))))
    if error.replayed:
        headers.append(REPLAYED)
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS)
    return error.status, [*headers, (b"content-length", b"%d" % len(body))], body


def as_loadsplit_error(error: BaseException, request_id: str) -> LoadsplitError:
    """The error itself if it is of our tree, the nearest class for a framework's HTTP error, else Internal; then the cause is logged."""
    if isinstance(error, LoadsplitError):
        if isinstance(error, Internal):
            log.error("request failed: %s", error.detail, exc_info=error, extra={"request_id": request_id})
        return error
    if isinstance(error, HTTPException) and error.status_code < 500:
        kind = _OF_STATUS.get(error.status_code, InvalidRequest)
        return kind(_TEXT_OF_STATUS.get(error.status_code, str(error.detail)))
    log.error("unexpected %s", type(error).__name__, exc_info=error, extra={"request_id": request_id})
    return Internal("something went wrong here; the log has it under the request id")


async def handle(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for every class there is."""
    rid = request_id(request.scope)
    status, headers, body = problem_response(as_loadsplit_error(error, rid), rid, request.scope["path"])
    response = Response(body, status)
    response.raw_headers = [h for h in headers if h[0] != b"content-length"] + [(b"content-length", b"%d" % len(body))]
    if isinstance(error, HTTPException) and error.headers:
        allowed = [(k.lower().encode(), v.encode()) for k, v in error.headers.items() if k.lower() == "allow"]
        response.raw_headers.extend(allowed)
    return response


def exception_handlers() -> dict[Any, Callable[..., Any]]:
    """For Starlette's `exception_handlers`: one handler, found through the MRO."""
    return {LoadsplitError: handle, HTTPException: handle, Exception: handle}
