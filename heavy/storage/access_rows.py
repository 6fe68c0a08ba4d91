"""Rows of `api_keys`, `tenants` and `admin_audit` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.contracts.access import KEY_LIMIT_NAMES, OPERATOR, Access, Key, sound_key_limits, sound_limits
from heavy.storage.rows import Row, from_json, text, to_json
from heavy.tenants.audit import AuditEntry
from heavy.tenants.stores import KeyRow, NewKey, TenantRow


def key_values(key: NewKey) -> tuple[Any, ...]:
    """Tenant, id, name, digest, scopes, expiry, limits."""
    return (key.tenant, key.key_id, text(key.name), key.digest, " ".join(key.scopes), key.expires_at, to_json(key.limits))


def key_of(row: Row) -> KeyRow:
    """A row of `api_keys`."""
    scopes, limits = tuple(row["scopes"].split()), sound_limits(from_json(row["limits"]), KEY_LIMIT_NAMES)
    return KeyRow(row["tenant"], row["key_id"], row["name"], scopes, row["created_at"], row["expires_at"], row["revoked_at"], limits)


def tenant_of(row: Row) -> TenantRow:
    """A row of `tenants`."""
    return TenantRow(row["tenant"], sound_limits(from_json(row["limits"])))


def access_of(revision: int, required: bool, keys: Iterable[Row], tenants: Iterable[Row]) -> Access:
    """The snapshot. Limits of the operator's own tenant have no meaning."""
    held = tuple(
        Key(
            r["key_id"],
            r["tenant"],
            frozenset(r["scopes"].split()),
            bytes.fromhex(r["digest"]),
            r["expires_at"],
            sound_key_limits(from_json(r["limits"])),
        )
        for r in keys
    )
    limits = {row.tenant: row.limits for row in map(tenant_of, tenants) if row.tenant != OPERATOR}
    return Access(revision, required, held, limits)


def audit_values(entry: AuditEntry) -> tuple[Any, ...]:
    """The columns of `admin_audit` in their order."""
    what = (entry.tenant, entry.actor, entry.via, entry.action, entry.subject, entry.detail)
    return (entry.audit_id, entry.at, *map(text, what))


def audit_of(row: Row) -> AuditEntry:
    """A row of `admin_audit`."""
    what = (row["tenant"], row["actor"], row["via"], row["action"], row["subject"], row["detail"])
    return AuditEntry(row["audit_id"], row["at"], *what)
