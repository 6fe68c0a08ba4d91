"""From what went wrong on the wire to one LLMCallFailed with a kind. Shared by the providers; it knows no SDK.

The `detail` of a failure may reach a client, so it never quotes the provider. The provider's words go into a note, for the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from common.contracts.query import Usage
from heavy.llm.headers import wanted_pause
from heavy.llm.types import LLMCallFailed

SAYS = {
    "rate_limited": "the LLM provider limits our rate",
    "overloaded": "the LLM provider is overloaded",
    "server_error": "the LLM provider failed",
    "connect": "the LLM provider cannot be reached",
    "timeout": "the LLM provider did not answer in time",
    "reset": "the LLM provider broke the connection",
    "incomplete": "the LLM provider's answer ended too early",
    "garbage": "the LLM provider's answer cannot be read",
    "error_event": "the LLM provider reported an error within its answer",
    "invalid_request": "the LLM provider refused the request",
    "auth": "the LLM provider refused our credentials",
    "not_found": "the LLM provider does not know the model",
    "spend_limit": "the spend limit at the LLM provider is reached",
}

# Codes and types that say "no money left", whatever the status. A substring is enough: providers vary the ends.
_SPEND = ("insufficient_quota", "billing", "spend_limit", "spending_limit", "quota_exceeded", "credit_balance", "insufficient_credit")
_BY_TYPE = {
    "overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "engine_overloaded": "overloaded",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "requests": "rate_limited",
    "tokens": "rate_limited",
    "authentication_error": "auth",
    "invalid_api_key": "auth",
    "permission_error": "auth",
    "not_found_error": "not_found",
    "model_not_found": "not_found",
    "invalid_request_error": "invalid_request",
    "context_length_exceeded": "invalid_request",
    "request_too_large": "invalid_request",
    "timeout_error": "timeout",
}
_BY_STATUS = {
    400: "invalid_request",
    401: "auth",
    402: "spend_limit",
    403: "auth",
    404: "not_found",
    408: "timeout",
    413: "invalid_request",
    422: "invalid_request",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}


def failed(
    kind: str, *, why: str = "", partial: str = "", usage: Usage | None = None, retry_after: float | None = None, status: int | None = None
) -> LLMCallFailed:
    """The error of one kind. `why` is for the log only; `status` is the HTTP status where there was one."""
    detail = SAYS[kind] + (f" (status {status})" if status is not None else "")
    error = LLMCallFailed(detail, kind=kind, partial=partial, retry_after=retry_after, usage=usage)
    if why:
        error.add_note(why[:300])
    return error


def from_body(body: Any, *, status: int | None, headers: Mapping[str, str], partial: str = "", usage: Usage | None = None) -> LLMCallFailed:
    """An error object, sent with an error status or (`status` None or 200) inside a successful reply. The body outranks the status."""
    error = body.get("error", body) if isinstance(body, dict) else {}
    if not isinstance(error, dict):
        error = {"message": str(error)}
    kind = _kind(error, status)
    why = f"{error.get('type') or ''} {error.get('code') or ''}: {error.get('message') or ''}" if error else str(body or "")
    shown = status if status is not None and status >= 300 else None
    return failed(kind, why=why.strip(" :"), partial=partial, usage=usage, retry_after=wanted_pause(headers), status=shown)


def _kind(error: Mapping[str, Any], status: int | None) -> str:
    details = error.get("details")
    codes = [
        str(x).lower()
        for x in (error.get("code"), error.get("type"), details.get("error_code") if isinstance(details, dict) else None)
        if x
    ]
    message = str(error.get("message") or "").lower()
    if any(mark in code for code in codes for mark in _SPEND) or ("credit balance is too low" in message):
        return "spend_limit"
    for code in codes:  # the code is the narrower word, so it comes first
        if code in _BY_TYPE and not (code == "invalid_request_error" and status not in (None, 200, 400)):
            return _BY_TYPE[code]
    if status is not None and status >= 300:  # a redirect is not followed: the address is wrong
        return _BY_STATUS.get(status, "invalid_request" if 400 <= status < 500 else "server_error")
    if "overloaded" in message:
        return "overloaded"
    return "error_event"


def from_exception(error: BaseException, *, partial: str = "", usage: Usage | None = None) -> LLMCallFailed:
    """A broken connection, by its root cause: the SDKs' transports name the same fault differently."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    names = {type(e).__name__ for e in chain}
    if any(isinstance(e, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for e in chain):
        kind = "connect"
    elif any(isinstance(e, aiohttp.ClientError | OSError) and not isinstance(e, TimeoutError) for e in chain):
        kind = "reset"
    elif any(isinstance(e, TimeoutError) for e in chain) or any("Timeout" in n for n in names):
        kind = "timeout"
    else:
        kind = "connect" if "ConnectError" in names else "reset"
    # The last link is the transport's own words; they hold no key.
    return failed(kind, why=f"{type(chain[-1]).__name__}: {chain[-1]}", partial=partial, usage=usage)
