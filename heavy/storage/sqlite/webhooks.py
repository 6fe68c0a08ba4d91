"""Webhooks on SQLite: who wants to hear of what."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from heavy.storage.sqlite.sessions import Run, one
from heavy.storage.webhook_rows import change_values, receiver_values, request_webhook_id, webhook_of
from heavy.turns.webhooks import Change, Receiver, WebhookKind, WebhookRow

COUNT = "SELECT count(*) FROM webhooks WHERE tenant = ? AND kind = 'tenant'"

ADD = """
INSERT INTO webhooks (tenant, webhook_id, kind, url, host, events, secret, description, created_at)
VALUES (?, ?, 'tenant', ?, ?, ?, ?, ?, ?)
"""

ENSURE = """
INSERT INTO webhooks (tenant, webhook_id, kind, url, host, events, secret, created_at) VALUES (?, ?, 'request', ?, ?, ?, ?, ?)
ON CONFLICT (tenant, webhook_id) DO UPDATE SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL
WHERE disabled_at IS NOT NULL
"""

GET = "SELECT * FROM webhooks WHERE tenant = ? AND webhook_id = ?"

OF_TENANT = """
SELECT * FROM webhooks WHERE tenant = ?1 AND (?2 IS NULL OR kind = ?2) AND webhook_id > ?3 ORDER BY webhook_id LIMIT ?4
"""

CHANGE = """
UPDATE webhooks SET url = COALESCE(?3, url), host = COALESCE(?4, host), events = COALESCE(?5, events),
    description = COALESCE(?6, description),
    failing_since = CASE WHEN ?7 OR ?3 IS NOT NULL THEN NULL ELSE failing_since END,
    disabled_at = CASE WHEN ?7 THEN NULL WHEN NOT ?7 THEN COALESCE(disabled_at, ?8) ELSE disabled_at END,
    disabled_reason = CASE WHEN ?7 THEN NULL WHEN NOT ?7 THEN COALESCE(disabled_reason, 'disabled by hand') ELSE disabled_reason END
WHERE tenant = ?1 AND webhook_id = ?2 RETURNING *
"""

DELETE = "DELETE FROM webhooks WHERE tenant = ? AND webhook_id = ?"


class SqliteWebhooks:
    """WebhookStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def add(self, tenant: str, webhook_id: str, receiver: Receiver, *, most: int) -> WebhookRow | None:
        """Registers a webhook of kind tenant; None where the tenant has `most` of them."""
        values = receiver_values(receiver)

        def add(c: sqlite3.Connection) -> Any:
            known = c.execute(GET, (tenant, webhook_id)).fetchone()
            if known is not None:
                return known
            if c.execute(COUNT, (tenant,)).fetchone()[0] >= most:
                return None
            c.execute(ADD, (tenant, webhook_id, *values, time.time()))
            return c.execute(GET, (tenant, webhook_id)).fetchone()

        row = await self._write(add)
        return webhook_of(row) if row else None

    async def ensure(self, tenant: str, receiver: Receiver) -> str:
        """The id of the webhook of kind request for this tenant, URL and secret."""
        webhook_id = request_webhook_id(tenant, receiver)
        known = await self.get(tenant, webhook_id)
        if known is not None and known.disabled_at is None:
            return webhook_id
        values = (tenant, webhook_id, *receiver_values(receiver)[:4])
        await self._write(lambda c: c.execute(ENSURE, (*values, time.time())).rowcount)
        return webhook_id

    async def get(self, tenant: str, webhook_id: str) -> WebhookRow | None:
        """The webhook, None when unknown to this tenant."""
        row = await self._read(lambda c: c.execute(GET, (tenant, webhook_id)).fetchone())
        return webhook_of(row) if row else None

    async def of_tenant(self, tenant: str, *, kind: WebhookKind | None = None, after: str = "", limit: int) -> Sequence[WebhookRow]:
        """Webhooks with ids above `after`, in the order of their ids."""
        return [webhook_of(r) for r in await self._read(lambda c: c.execute(OF_TENANT, (tenant, kind, after, limit)).fetchall())]

    async def change(self, tenant: str, webhook_id: str, change: Change) -> WebhookRow | None:
        """The webhook after the change, None when unknown to this tenant."""
        values = (tenant, webhook_id, *change_values(change))
        row = await self._write(lambda c: one(c, CHANGE, (*values, time.time())))
        return webhook_of(row) if row else None

    async def delete(self, tenant: str, webhook_id: str) -> bool:
        """Forgets a webhook; False when there was none."""
        return await self._write(lambda c: c.execute(DELETE, (tenant, webhook_id)).rowcount > 0)
