"""Rows of `api_keys` and `tenants` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.contracts.access import OPERATOR, Access, Key, sound_limits
from heavy.storage.rows import Row, from_json, text
from heavy.tenants.stores import KeyRow, NewKey, Spent, TenantRow


def key_values(key: NewKey) -> tuple[Any, ...]:
    """Tenant, id, name, digest, scopes, expiry."""
    return (key.tenant, key.key_id, text(key.name), key.digest, " ".join(key.scopes), key.expires_at)


def key_of(row: Row) -> KeyRow:
    """A row of `api_keys`."""
    scopes = tuple(row["scopes"].split())
    return KeyRow(row["tenant"], row["key_id"], row["name"], scopes, row["created_at"], row["expires_at"], row["revoked_at"])


def tenant_of(row: Row) -> TenantRow:
    """A row of `tenants`."""
    return TenantRow(row["tenant"], sound_limits(from_json(row["limits"])))


def spent_of(row: Row) -> Spent:
    """Sums over `turns`, null where there was none."""
    return Spent(int(row["tokens"] or 0), float(row["cost_usd"] or 0))


def access_of(revision: int, required: bool, keys: Iterable[Row], tenants: Iterable[Row]) -> Access:
    """The snapshot. Limits of the operator's own tenant have no meaning."""
    held = tuple(Key(r["key_id"], r["tenant"], frozenset(r["scopes"].split()), bytes.fromhex(r["digest"]), r["expires_at"]) for r in keys)
    limits = {row.tenant: row.limits for row in map(tenant_of, tenants) if row.tenant != OPERATOR}
    return Access(revision, required, held, limits)
