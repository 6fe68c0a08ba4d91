"""Errors as the clients of LLM APIs expect them: OpenAI's object on /v1/…, Anthropic's on /v1/messages…; everywhere else problems.

Status, code and sentence are those of the problem; what the other members of a problem say stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.contracts.problem import problem
from common.errors import LoadsplitError, NotFound

OPENAI_PREFIX = "/v1/"
ANTHROPIC_PREFIX = "/v1/messages"
_LEFT_OUT = frozenset({"type", "title", "status", "detail", "code", "field"})
_OPENAI_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ModelNotFound(NotFound):
    """There is no such model for this caller."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model[:128]!r} does not exist; GET /v1/models lists those that do", field="model")


def openai_error(error: LoadsplitError, request_id: str) -> dict[str, Any]:
    """{"error": {message, type, param, code, …}}"""
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    told = {"message": error.detail, "type": kind, "param": error.extra.get("field"), "code": error.code}
    return {"error": {**_beside(error, request_id), **told}}


def anthropic_error(error: LoadsplitError, request_id: str) -> dict[str, Any]:
    """{"type": "error", "error": {type, message, …}, "request_id"}"""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told = {"type": kind, "message": error.detail, "code": error.code}
    return {"type": "error", "error": {**_beside(error, request_id), **told}, "request_id": request_id}


def error_document(path: str, error: LoadsplitError, request_id: str) -> dict[str, Any] | None:
    """The error in the shape that goes with a path; None where that is a problem."""
    if not path.startswith(OPENAI_PREFIX):
        return None
    shape = anthropic_error if path.startswith(ANTHROPIC_PREFIX) else openai_error
    return shape(error, request_id)


def _beside(error: LoadsplitError, request_id: str) -> dict[str, Any]:
    return {name: value for name, value in problem(error, request_id).items() if name not in _LEFT_OUT}
