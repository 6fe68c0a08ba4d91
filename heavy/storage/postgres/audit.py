"""The audit log on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.storage.access_rows import audit_of, audit_values
from heavy.storage.postgres.sessions import Runner
from heavy.tenants.audit import AuditEntry

ADD = """
INSERT INTO admin_audit (audit_id, at, tenant, actor, via, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
"""
PAGE = """
SELECT * FROM admin_audit
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR starts_with(action, $2)) AND ($3::text IS NULL OR audit_id < $3)
ORDER BY audit_id DESC LIMIT $4
"""


class PostgresAudit:
    """AuditStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """Adds an entry."""
        await self._database.fetch(ADD, *audit_values(entry))

    async def page(self, tenant: str | None, *, action: str | None = None, before: str | None = None, limit: int) -> Sequence[AuditEntry]:
        """Entries, the newest first."""
        return [audit_of(r) for r in await self._database.fetch(PAGE, tenant, action, before, limit)]
