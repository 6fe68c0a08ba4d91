"""Keys and limits of tenants on SQLite. The triggers of the schema raise the revision."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts.access import Access
from heavy.storage.access_rows import access_of, key_of, key_values, tenant_of
from heavy.storage.rows import to_json
from heavy.storage.sqlite.sessions import Run, one
from heavy.tenants.stores import KEPT_SECONDS, KeyRow, NewKey, TenantRow

REVISION = "SELECT revision, EXISTS (SELECT 1 FROM api_keys) AS required FROM access_revision"
IN_FORCE = "SELECT * FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
ADD = """
INSERT INTO api_keys (tenant, key_id, name, digest, scopes, expires_at, limits, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
ADDED = "SELECT * FROM api_keys WHERE tenant = ? AND key_id = ? AND digest = ?"
KEYS = "SELECT * FROM api_keys WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at DESC, key_id LIMIT ?2"
REVOKE = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?3) WHERE key_id = ?2 AND (?1 IS NULL OR tenant = ?1) RETURNING *"
TENANTS = """
SELECT n.tenant, COALESCE(t.limits, '{}') AS limits
FROM (SELECT tenant FROM tenants UNION SELECT tenant FROM api_keys) n LEFT JOIN tenants t ON t.tenant = n.tenant
WHERE n.tenant <> '*' AND (?1 IS NULL OR n.tenant = ?1) ORDER BY n.tenant LIMIT ?2
"""
SET = """
INSERT INTO tenants VALUES (?1, json_patch('{}', ?2))
ON CONFLICT (tenant) DO UPDATE SET limits = json_patch(limits, ?2) RETURNING *
"""
ACTIVE = "SELECT count(*) AS n FROM turns WHERE tenant = ? AND state IN ('waiting', 'running')"


class SqliteAccess:
    """AccessStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def revision(self) -> int:
        """The number of the last change."""
        return int((await self._read(lambda c: c.execute(REVISION).fetchone()))["revision"])

    async def access(self) -> Access:
        """What servers need. The revision is read first: what is read after it may be newer, never older."""

        def read(c: sqlite3.Connection) -> Access:
            head = c.execute(REVISION).fetchone()
            held = c.execute(IN_FORCE, (time.time() - KEPT_SECONDS,)).fetchall()
            return access_of(head["revision"], bool(head["required"]), held, c.execute("SELECT * FROM tenants").fetchall())

        return await self._read(read)

    async def add_key(self, key: NewKey) -> KeyRow | None:
        """Stores a key; None when another one has its id."""

        def add(c: sqlite3.Connection) -> Any:
            c.execute(ADD, (*key_values(key), time.time()))
            return c.execute(ADDED, (key.tenant, key.key_id, key.digest)).fetchone()

        row = await self._write(add)
        return key_of(row) if row else None

    async def keys(self, tenant: str | None, *, limit: int) -> Sequence[KeyRow]:
        """The keys, the newest first."""
        return [key_of(r) for r in await self._read(lambda c: c.execute(KEYS, (tenant, limit)).fetchall())]

    async def revoke(self, tenant: str | None, key_id: str) -> KeyRow | None:
        """Revokes a key; None when there is none of that id."""
        row = await self._write(lambda c: one(c, REVOKE, (tenant, key_id, time.time())))
        return key_of(row) if row else None

    async def tenants(self, tenant: str | None, *, limit: int) -> Sequence[TenantRow]:
        """The tenants by name."""
        return [tenant_of(r) for r in await self._read(lambda c: c.execute(TENANTS, (tenant, limit)).fetchall())]

    async def set_limits(self, tenant: str, changes: Mapping[str, Any]) -> TenantRow:
        """Sets limits by name; None takes one away."""
        return tenant_of(await self._write(lambda c: one(c, SET, (tenant, to_json(changes)))))

    async def active_turns(self, tenant: str) -> int:
        """Turns of the tenant that wait or run now."""
        return int((await self._read(lambda c: c.execute(ACTIVE, (tenant,)).fetchone()))["n"])
