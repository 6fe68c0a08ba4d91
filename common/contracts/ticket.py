"""The signed ticket that travels with a hand-off: what lightweight found out, so that heavy trusts the ticket and not the network.

Form: `v1.<base64url payload>.<base64url HMAC-SHA256 of "v1.<payload>">`, without padding. It expires after 30 seconds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from common.errors import Unauthorized

HEADER = "x-loadsplit-ticket"
SESSION_HEADER = "x-loadsplit-session"
EXPIRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Plan:
    """What the rules found: an action to run in heavy, or one that failed in lightweight, or nothing (then both are None).

    `escalated` is the reason why the rule's own action could not answer, for the LLM to know. `parameters` are a learned route's.
    """

    action_type: str | None = None
    action_target: str | None = None
    pattern: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    escalated: str | None = None
    matched_by: Literal["rule", "learned"] = "rule"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Times are Unix seconds. `deadline` is when the caller stops waiting, None without one; `traceparent` the span that handed over."""

    tenant: str
    agent_id: str
    session_id: str
    turn_id: str
    config_hash: str
    plan: Plan
    deadline: float | None = None
    expires: float = 0.0
    traceparent: str = ""

    @property
    def expired(self) -> bool:
        """Whether it may begin nothing any more."""
        return self.expires < time.time()


def sign(ticket: Ticket, secret: bytes) -> str:
    """The header value. The expiry is set here."""
    body = {
        "tenant": ticket.tenant,
        "agent_id": ticket.agent_id,
        "session_id": ticket.session_id,
        "turn_id": ticket.turn_id,
        "config_hash": ticket.config_hash,
        "plan": ticket.plan,
        "deadline": ticket.deadline,
        "expires": time.time() + EXPIRY_SECONDS,
    }
    if ticket.traceparent:
        body["traceparent"] = ticket.traceparent
    signed = b"v1." + _b64(orjson.dumps(body))
    return (signed + b"." + _b64(_mac(signed, secret))).decode()


def verify(value: str, secret: bytes, *, late: bool = False) -> Ticket:
    """The ticket, if the signature holds and it has not expired (or may be `late`); else Unauthorized, without saying which."""
    try:
        signed, _, mac = value.encode().rpartition(b".")
        if not hmac.compare_digest(_b64(_mac(signed, secret)), mac) or not signed.startswith(b"v1."):
            raise Unauthorized("the ticket does not hold")
        doc = orjson.loads(_unb64(signed[3:]))
        ticket = Ticket(**{**doc, "plan": Plan(**doc["plan"])})
    except (ValueError, TypeError, KeyError):
        raise Unauthorized("the ticket does not hold") from None
    if ticket.expired and not late:
        raise Unauthorized("the ticket does not hold")
    return ticket


def traceparent_of(value: bytes) -> str:
    """The traceparent of a ticket that need not hold: it gives no right, and a caller may send any."""
    try:
        found = orjson.loads(_unb64(value.split(b".")[1])).get("traceparent", "")
    except (ValueError, IndexError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _mac(signed: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, signed, hashlib.sha256)


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unb64(data: bytes) -> bytes:
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
