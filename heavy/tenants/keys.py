"""Making API keys. A key's text leaves this module once, in the result of `create_key`; it is neither stored nor logged."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

from common.contracts.access import OPERATOR, check_key, check_key_limits, digest_of
from heavy.tenants.stores import AccessStore, KeyRow, NewKey

MAX_NAME = 200
TRIES = 3


async def create_key(
    store: AccessStore,
    *,
    tenant: str,
    scopes: Iterable[str],
    name: str = "",
    expires_at: float | None = None,
    limits: Mapping[str, Any] = {},
) -> tuple[str, KeyRow]:
    """The text of a new key, and its row. Raises ValueError naming what is wrong, DependencyUnavailable when the database is away."""
    tenant, checked = check_key(tenant, list(scopes))
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"name must be at most {MAX_NAME} printable characters")
    if expires_at is not None and not time.time() < expires_at < 1e11:
        raise ValueError("expires_at must be a time to come")
    limits = check_key_limits(limits)
    if limits and tenant == OPERATOR:
        raise ValueError("limits: an operator's key has none")
    for _ in range(TRIES):
        key_id = secrets.token_hex(6)
        text = f"ls_{key_id}_{secrets.token_urlsafe(32)}"
        digest = digest_of(text.encode()).hex()
        row = await store.add_key(NewKey(tenant, key_id, digest, tuple(sorted(checked)), name, expires_at, limits))
        if row is not None:
            return text, row
    raise ValueError("no free key id was found: try again")


def state_of(row: KeyRow) -> str:
    """active, expired or revoked."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= time.time() else "active"
