"""The error tree of loadsplit. Every error that a client may see is one of these classes; anything else is `internal`.

    LoadsplitError                 code                    status  retryable
    ├── InvalidRequest             invalid_request         400     no
    ├── Unauthorized               unauthorized            401     no
    ├── Forbidden                  forbidden               403     no
    ├── NotFound                   not_found               404     no
    ├── MethodNotAllowed           invalid_request         405     no
    ├── SessionBusy                session_busy            409     yes
    ├── Conflict                   invalid_request         409     no
    ├── Gone                       gone                    410     no
    ├── PayloadTooLarge            payload_too_large       413     no
    ├── UnsupportedMediaType       unsupported_media_type  415     no
    ├── IdempotencyMismatch        idempotency_mismatch    422     no
    ├── ConfigInvalid              config_invalid          422     no
    ├── RateLimited                rate_limited            429     yes
    ├── BudgetExceeded             budget_exceeded         429     no
    ├── UpstreamError              upstream_error          502     yes
    ├── LLMError                   llm_error               502     yes
    ├── Overloaded                 overloaded              503     yes
    ├── DependencyUnavailable      dependency_unavailable  503     yes
    ├── DeadlineExceeded           deadline_exceeded       504     yes
    └── Internal                   internal                500     no

It knows no HTTP library: `common.web.errors` turns these into RFC 9457 problems, `common.contracts.problem` gives their shape.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LoadsplitError(Exception):
    """Base of the tree. `detail` is one sentence for the client; `extra` are further members of the problem. `replayed` says that an
    earlier request with the same Idempotency-Key has had it already."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, retry_after: float | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.extra = extra
        self.replayed = False


class InvalidRequest(LoadsplitError):
    """The request itself is wrong; `extra["field"]` names the place where that is known."""

    code, status, title = "invalid_request", 400, "Invalid request"


class Unauthorized(LoadsplitError):
    """No credentials, or ones that do not hold."""

    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(LoadsplitError):
    """Known caller, missing scope."""

    code, status, title = "forbidden", 403, "Forbidden"


class NotFound(LoadsplitError):
    """Unknown here, or another tenant's: the two look the same."""

    code, status, title = "not_found", 404, "Not found"


class MethodNotAllowed(LoadsplitError):
    """The path exists, the method does not."""

    code, status, title = "invalid_request", 405, "Method not allowed"


class SessionBusy(LoadsplitError):
    """A turn of this session runs and the caller asked not to wait."""

    code, status, title, retryable = "session_busy", 409, "Session busy", True


class Conflict(LoadsplitError):
    """What is asked for does not fit what the session or turn has become; `extra` says what that is."""

    code, status, title = "invalid_request", 409, "Not possible now"


class Gone(LoadsplitError):
    """It existed; its retention time is over."""

    code, status, title = "gone", 410, "Gone"


class PayloadTooLarge(LoadsplitError):
    """The body is larger than the limit that `detail` names."""

    code, status, title = "payload_too_large", 413, "Payload too large"


class UnsupportedMediaType(LoadsplitError):
    """The body is not application/json."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class IdempotencyMismatch(LoadsplitError):
    """The same Idempotency-Key came with another body."""

    code, status, title = "idempotency_mismatch", 422, "Idempotency key reused"


class ConfigInvalid(LoadsplitError):
    """A workflow or models file does not hold; `extra["problems"]` lists every reason."""

    code, status, title = "config_invalid", 422, "Invalid configuration"


class RateLimited(LoadsplitError):
    """Too many requests for this caller."""

    code, status, title, retryable = "rate_limited", 429, "Too many requests", True


class BudgetExceeded(LoadsplitError):
    """The money or token budget of this caller is spent."""

    code, status, title = "budget_exceeded", 429, "Budget exceeded"


class UpstreamError(LoadsplitError):
    """A business API answered with an error or not at all. Its body never reaches the client."""

    code, status, title, retryable = "upstream_error", 502, "Upstream error", True


class LLMError(LoadsplitError):
    """The LLM provider failed after every retry and fail-over."""

    code, status, title, retryable = "llm_error", 502, "LLM error", True


class Overloaded(LoadsplitError):
    """No capacity now; `retry_after` says when to come back."""

    code, status, title, retryable = "overloaded", 503, "Overloaded", True


class DependencyUnavailable(LoadsplitError):
    """A store, the heavy tier or every LLM is away."""

    code, status, title, retryable = "dependency_unavailable", 503, "Dependency unavailable", True


class DeadlineExceeded(LoadsplitError):
    """The caller's or the server's time for this request is over."""

    code, status, title, retryable = "deadline_exceeded", 504, "Deadline exceeded", True


class Internal(LoadsplitError):
    """A fault of ours. The log has the cause under the request id; the client gets nothing of it."""
