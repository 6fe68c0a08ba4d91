"""Webhooks on PostgreSQL: who wants to hear of what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heavy.storage.postgres.sessions import Runner
from heavy.storage.webhook_rows import change_values, receiver_values, request_webhook_id, webhook_of
from heavy.turns.webhooks import Change, Receiver, WebhookKind, WebhookRow

# The advisory lock lets two that register at once see each other's row.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('webhooks/' || $1, 0))"

# $1 tenant, $2 id, $3 URL, $4 host, $5 events, $6 secret, $7 description, $8 how many there may be
ADD = """
INSERT INTO webhooks (tenant, webhook_id, kind, url, host, events, secret, description, created_at)
SELECT $1, $2, 'tenant', $3, $4, $5, $6, $7, extract(epoch FROM now())::float8
WHERE (SELECT count(*) FROM webhooks WHERE tenant = $1 AND kind = 'tenant') < $8
ON CONFLICT (tenant, webhook_id) DO NOTHING RETURNING *
"""

ENSURE = """
INSERT INTO webhooks AS old (tenant, webhook_id, kind, url, host, events, secret, created_at)
VALUES ($1, $2, 'request', $3, $4, $5, $6, extract(epoch FROM now())::float8)
ON CONFLICT (tenant, webhook_id) DO UPDATE SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL
WHERE old.disabled_at IS NOT NULL
"""

GET = "SELECT * FROM webhooks WHERE tenant = $1 AND webhook_id = $2"

OF_TENANT = """
SELECT * FROM webhooks WHERE tenant = $1 AND ($2::text IS NULL OR kind = $2) AND webhook_id > $3 ORDER BY webhook_id LIMIT $4
"""

# $1 tenant, $2 id, $3 URL, $4 host, $5 events, $6 description, $7 enabled
CHANGE = """
UPDATE webhooks SET url = COALESCE($3, url), host = COALESCE($4, host), events = COALESCE($5, events),
    description = COALESCE($6, description),
    failing_since = CASE WHEN $7 OR $3 IS NOT NULL THEN NULL ELSE failing_since END,
    disabled_at = CASE WHEN $7::bool THEN NULL
        WHEN NOT $7 THEN COALESCE(disabled_at, extract(epoch FROM now())::float8) ELSE disabled_at END,
    disabled_reason = CASE WHEN $7 THEN NULL WHEN NOT $7 THEN COALESCE(disabled_reason, 'disabled by hand') ELSE disabled_reason END
WHERE tenant = $1 AND webhook_id = $2 RETURNING *
"""

DELETE = "DELETE FROM webhooks WHERE tenant = $1 AND webhook_id = $2 RETURNING 1"


class PostgresWebhooks:
    """WebhookStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def add(self, tenant: str, webhook_id: str, receiver: Receiver, *, most: int) -> WebhookRow | None:
        """Registers a webhook of kind tenant; None where the tenant has `most` of them."""

        async def add(connection: Any) -> Any:
            async with connection.transaction():
                await connection.execute(LOCK, tenant)
                return await connection.fetchrow(ADD, tenant, webhook_id, *receiver_values(receiver), most)

        row = await self._database.run(add) or await self._database.fetchrow(GET, tenant, webhook_id)
        return webhook_of(row) if row else None

    async def ensure(self, tenant: str, receiver: Receiver) -> str:
        """The id of the webhook of kind request for this tenant, URL and secret."""
        webhook_id = request_webhook_id(tenant, receiver)
        known = await self.get(tenant, webhook_id)
        if known is not None and known.disabled_at is None:  # as always but once: a write would make all requests queue at its row
            return webhook_id
        await self._database.fetch(ENSURE, tenant, webhook_id, *receiver_values(receiver)[:4])
        return webhook_id

    async def get(self, tenant: str, webhook_id: str) -> WebhookRow | None:
        """The webhook, None when unknown to this tenant."""
        row = await self._database.fetchrow(GET, tenant, webhook_id)
        return webhook_of(row) if row else None

    async def of_tenant(self, tenant: str, *, kind: WebhookKind | None = None, after: str = "", limit: int) -> Sequence[WebhookRow]:
        """Webhooks with ids above `after`, in the order of their ids."""
        return [webhook_of(r) for r in await self._database.fetch(OF_TENANT, tenant, kind, after, limit)]

    async def change(self, tenant: str, webhook_id: str, change: Change) -> WebhookRow | None:
        """The webhook after the change, None when unknown to this tenant."""
        row = await self._database.fetchrow(CHANGE, tenant, webhook_id, *change_values(change))
        return webhook_of(row) if row else None

    async def delete(self, tenant: str, webhook_id: str) -> bool:
        """Forgets a webhook; False when there was none."""
        tries = 0

        async def erase(connection: Any) -> bool:
            nonlocal tries
            tries += 1
            return await connection.fetchrow(DELETE, tenant, webhook_id) is not None or tries > 1  # what broke may have been the reply

        return await self._database.run(erase)
