"""The audit log on SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.storage.access_rows import audit_of, audit_values
from heavy.storage.sqlite.sessions import Run
from heavy.tenants.audit import AuditEntry

ADD = """
INSERT INTO admin_audit (audit_id, at, tenant, actor, via, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
PAGE = """
SELECT * FROM admin_audit
WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR substr(action, 1, length(?2)) = ?2) AND (?3 IS NULL OR audit_id < ?3)
ORDER BY audit_id DESC LIMIT ?4
"""


class SqliteAudit:
    """AuditStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def add(self, entry: AuditEntry) -> None:
        """Adds an entry."""
        await self._write(lambda c: c.execute(ADD, audit_values(entry)).rowcount)

    async def page(self, tenant: str | None, *, action: str | None = None, before: str | None = None, limit: int) -> Sequence[AuditEntry]:
        """Entries, the newest first."""
        return [audit_of(r) for r in await self._read(lambda c: c.execute(PAGE, (tenant, action, before, limit)).fetchall())]
