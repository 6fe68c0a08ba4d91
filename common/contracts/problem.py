"""RFC 9457 problem details: the one shape in which an error reaches a client, as a body or as a stream's `error` event."""

from __future__ import annotations

from typing import Any

from common.errors import LoadsplitError

TYPE_BASE = "https://loadsplit.dev/errors/"
MEDIA_TYPE = "application/problem+json"


def problem(error: LoadsplitError, request_id: str) -> dict[str, Any]:
    """The problem document of an error: type, title, status, detail, code, request_id, retryable and the error's own members."""
    doc: dict[str, Any] = {
        "type": TYPE_BASE + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    if error.retry_after is not None:
        doc["retry_after"] = error.retry_after
    doc.update(error.extra)
    return doc
