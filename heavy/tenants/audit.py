"""The audit log: who has changed what, when, through a page or the API. Entries are only ever added; secrets are not put into them."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from common.errors import DependencyUnavailable

Via = Literal["page", "api"]
MOST_DETAIL = 2000
MOST_SUBJECT = 300
NOBODY = "nobody"
"""The actor where no API keys are configured, and of a login that failed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `tenant` is the one whose things were changed, `actor` is tenant/key id, `detail` a short JSON object."""

    audit_id: str
    at: float
    tenant: str
    actor: str
    via: str
    action: str
    subject: str
    detail: str = "{}"


class AuditStore(Protocol):
    """The log. Raises DependencyUnavailable when the database is away."""

    async def add(self, entry: AuditEntry) -> None:
        """Adds an entry. Repeating it changes nothing."""

    async def page(self, tenant: str | None, *, action: str | None = None, before: str | None = None, limit: int) -> Sequence[AuditEntry]:
        """Entries with ids below `before`, the newest first, of one tenant or of all (None); `action` is the beginning of its name."""


def entry(*, tenant: str, actor: str, via: Via, action: str, subject: str = "", detail: Mapping[str, Any] | None = None) -> AuditEntry:
    """An entry of now. A detail that is too long is cut, and says so."""
    at = time.time()
    text = orjson.dumps(detail or {}, default=str).decode()
    if len(text) > MOST_DETAIL:
        text = orjson.dumps({"cut": text[:MOST_DETAIL]}).decode()
    audit_id = f"a_{int(at * 1000):012x}{secrets.token_hex(8)}"
    return AuditEntry(audit_id, at, tenant, actor, via, action, subject[:MOST_SUBJECT], text)


def actor_of(tenant: str, key_id: str | None) -> str:
    """How an entry names who has done it."""
    return NOBODY if key_id is None else f"{tenant}/{key_id}"


async def write(store: AuditStore, made: AuditEntry) -> None:
    """Adds an entry behind a change that has been made: where the database does not take it any more, the log of this process has it."""
    try:
        await store.add(made)
    except DependencyUnavailable as e:
        fields = {"actor": made.actor, "action": made.action, "subject": made.subject, "detail": made.detail}
        log.error("an entry of the audit log is here only: %s", e.detail, extra=fields)
