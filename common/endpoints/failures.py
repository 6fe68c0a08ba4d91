"""The one error of a declared HTTP call. Its detail is safe to show: it never holds anything that the upstream sent."""

from __future__ import annotations

from typing import Literal

from common.errors import UpstreamError

FailureKind = Literal[
    "timeout",
    "connect",
    "status",
    "too_large",
    "bad_json",
    "egress",
    "breaker_open",
    "missing_variable",
    "bad_value",
    "not_success",
    "bad_result",
]


class EndpointFailed(UpstreamError):
    """A declared call gave no usable result. `upstream_status` is the API's status where there was a reply; `status` is the problem's, 502.

    kind: timeout, connect (refused, reset, broken off), status (3xx to 5xx), too_large, bad_json (also too deep), egress (the policy
    refuses its address), breaker_open (not asked: it failed too often), missing_variable (a URL path needs it), bad_value (cannot stand
    in a URL or header), not_success (`success_when` did not hold), bad_result (a JMESPath failed on it).
    """

    def __init__(self, name: str, reason: str, *, kind: FailureKind, upstream_status: int | None = None) -> None:
        super().__init__(f"{name}: {reason}")
        self.kind: FailureKind = kind
        self.upstream_status = upstream_status
