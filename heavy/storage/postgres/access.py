"""Keys and limits of tenants on PostgreSQL. The triggers of the schema raise the revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts.access import Access
from heavy.storage.access_rows import access_of, key_of, key_values, tenant_of
from heavy.storage.postgres.sessions import Runner
from heavy.storage.rows import to_json
from heavy.tenants.stores import KEPT_SECONDS, KeyRow, NewKey, TenantRow

REVISION = "SELECT revision, EXISTS (SELECT 1 FROM api_keys) AS required FROM access_revision"
IN_FORCE = """
SELECT * FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > extract(epoch FROM now())::float8 - $1)
"""
ADD = """
INSERT INTO api_keys (tenant, key_id, name, digest, scopes, expires_at, limits, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, extract(epoch FROM now())::float8) ON CONFLICT DO NOTHING RETURNING *
"""
ADDED = "SELECT * FROM api_keys WHERE tenant = $1 AND key_id = $2 AND digest = $3"
KEYS = "SELECT * FROM api_keys WHERE $1::text IS NULL OR tenant = $1 ORDER BY created_at DESC, key_id LIMIT $2"
REVOKE = """
UPDATE api_keys SET revoked_at = COALESCE(revoked_at, extract(epoch FROM now())::float8)
WHERE key_id = $2 AND ($1::text IS NULL OR tenant = $1) RETURNING *
"""
TENANTS = """
SELECT n.tenant, COALESCE(t.limits, '{}') AS limits
FROM (SELECT tenant FROM tenants UNION SELECT tenant FROM api_keys) n LEFT JOIN tenants t USING (tenant)
WHERE n.tenant <> '*' AND ($1::text IS NULL OR n.tenant = $1) ORDER BY n.tenant LIMIT $2
"""
SET = """
INSERT INTO tenants AS old VALUES ($1, jsonb_strip_nulls($2::text::jsonb)::text)
ON CONFLICT (tenant) DO UPDATE SET limits = jsonb_strip_nulls(old.limits::jsonb || $2::text::jsonb)::text RETURNING *
"""
ACTIVE = "SELECT count(*) AS n FROM turns WHERE tenant = $1 AND state IN ('waiting', 'running')"


class PostgresAccess:
    """AccessStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def revision(self) -> int:
        """The number of the last change."""
        return int((await self._database.fetchrow(REVISION))["revision"])

    async def access(self) -> Access:
        """What servers need. The revision is read first: what is read after it may be newer, never older."""
        head = await self._database.fetchrow(REVISION)
        held = await self._database.fetch(IN_FORCE, KEPT_SECONDS)
        return access_of(head["revision"], head["required"], held, await self._database.fetch("SELECT * FROM tenants"))

    async def add_key(self, key: NewKey) -> KeyRow | None:
        """Stores a key; None when another one has its id."""
        row = await self._database.fetchrow(ADD, *key_values(key))
        row = row or await self._database.fetchrow(ADDED, key.tenant, key.key_id, key.digest)  # it was stored before, maybe just now
        return key_of(row) if row else None

    async def keys(self, tenant: str | None, *, limit: int) -> Sequence[KeyRow]:
        """The keys, the newest first."""
        return [key_of(r) for r in await self._database.fetch(KEYS, tenant, limit)]

    async def revoke(self, tenant: str | None, key_id: str) -> KeyRow | None:
        """Revokes a key; None when there is none of that id."""
        row = await self._database.fetchrow(REVOKE, tenant, key_id)
        return key_of(row) if row else None

    async def tenants(self, tenant: str | None, *, limit: int) -> Sequence[TenantRow]:
        """The tenants by name."""
        return [tenant_of(r) for r in await self._database.fetch(TENANTS, tenant, limit)]

    async def set_limits(self, tenant: str, changes: Mapping[str, Any]) -> TenantRow:
        """Sets limits by name; None takes one away."""
        return tenant_of(await self._database.fetchrow(SET, tenant, to_json(changes)))

    async def active_turns(self, tenant: str) -> int:
        """Turns of the tenant that wait or run now."""
        return int((await self._database.fetchrow(ACTIVE, tenant))["n"])
