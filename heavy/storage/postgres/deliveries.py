"""Messages to webhooks on PostgreSQL: handed out, each to one process, and settled. Events make them (outbox)."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.storage.postgres.sessions import Runner, either
from heavy.storage.webhook_rows import delivery_of, due_of, verdict_values
from heavy.turns.webhooks import DeliveryRow, DeliveryStatus, DueDelivery, Room, Verdict

_NOW = "extract(epoch FROM now())::float8"

ABANDON_AT_ONCE = 5000

SEND = f"""
INSERT INTO deliveries (tenant, delivery_id, webhook_id, host, type, data, at, next_at, created_at)
SELECT tenant, $2, webhook_id, host, $4, $5, {_NOW}, {_NOW}, {_NOW} FROM webhooks
WHERE tenant = $1 AND webhook_id = $3 AND disabled_at IS NULL
ON CONFLICT DO NOTHING RETURNING *
"""

# Lanes (a tenant's hosts with something pending) are found by skipping through the index, so a look costs one probe for each lane however
# many messages wait in it. Of the lanes that are due, the longest overdue first, a few messages each are locked; what another process has
# locked is passed over. $1 hold, $2 limit, $3 per tenant, $4 per host; what this process sends now: $5 tenants, $6 hosts, $7 how many
DUE = f"""
WITH RECURSIVE lane AS (
    (SELECT tenant, host FROM deliveries WHERE status = 'pending' ORDER BY tenant, host LIMIT 1)
    UNION ALL
    SELECT n.* FROM lane l, LATERAL (
        SELECT tenant, host FROM deliveries WHERE status = 'pending' AND (tenant, host) > (l.tenant, l.host)
        ORDER BY tenant, host LIMIT 1) n),
busy AS (SELECT * FROM unnest($5::text[], $6::text[], $7::int[]) AS b (tenant, host, n)),
open AS (
    SELECT l.*, $4 - COALESCE(b.n, 0) AS free, f.next_at
    FROM lane l LEFT JOIN busy b USING (tenant, host), LATERAL (
        SELECT next_at FROM deliveries d
        WHERE status = 'pending' AND d.tenant = l.tenant AND d.host = l.host AND next_at <= {_NOW} ORDER BY next_at LIMIT 1) f
    WHERE COALESCE(b.n, 0) < $4 AND COALESCE((SELECT sum(n) FROM busy t WHERE t.tenant = l.tenant), 0) < $3
    ORDER BY f.next_at LIMIT $2),
ranked AS (
    SELECT p.*, row_number() OVER (PARTITION BY p.tenant ORDER BY p.next_at) AS place
    FROM open o, LATERAL (
        SELECT tenant, delivery_id, next_at FROM deliveries d
        WHERE status = 'pending' AND d.tenant = o.tenant AND d.host = o.host AND next_at <= {_NOW}
        ORDER BY next_at LIMIT o.free FOR UPDATE SKIP LOCKED) p),
found AS (
    SELECT tenant, delivery_id FROM ranked r
    WHERE place <= $3 - COALESCE((SELECT sum(n) FROM busy t WHERE t.tenant = r.tenant), 0) ORDER BY next_at LIMIT $2),
taken AS (
    UPDATE deliveries d SET next_at = {_NOW} + $1, attempts = attempts + 1
    FROM found f WHERE d.tenant = f.tenant AND d.delivery_id = f.delivery_id RETURNING d.*)
SELECT t.*, w.url, w.secret, w.disabled_at FROM taken t LEFT JOIN webhooks w USING (tenant, webhook_id) ORDER BY t.delivery_id
"""

# $1 tenant, $2 id, $3 the end of the hold under which it was sent, $4 HTTP status
DELIVERED = f"""
WITH d AS (
    UPDATE deliveries SET status = 'delivered', finished_at = {_NOW}, last_status = $4, last_error = NULL
    WHERE tenant = $1 AND delivery_id = $2 AND next_at = $3 RETURNING webhook_id)
UPDATE webhooks w SET failing_since = NULL FROM d WHERE w.tenant = $1 AND w.webhook_id = d.webhook_id AND failing_since IS NOT NULL
"""

# As DELIVERED, then $4 the new state, $5 seconds until the next attempt, $6 HTTP status, $7 error, $8 reason to disable, $9 patience
FAILED = f"""
WITH clock AS (SELECT {_NOW} AS now),
d AS (
    UPDATE deliveries SET status = $4, next_at = CASE $4 WHEN 'pending' THEN now + $5 ELSE next_at END, last_status = $6,
        last_error = $7, finished_at = CASE $4 WHEN 'failed' THEN now END
    FROM clock WHERE tenant = $1 AND delivery_id = $2 AND next_at = $3 AND status = 'pending' RETURNING webhook_id)
UPDATE webhooks w SET failing_since = COALESCE(failing_since, now),
    disabled_at = CASE WHEN $8::text IS NOT NULL OR failing_since < now - $9 THEN now END,
    disabled_reason = CASE WHEN $8 IS NOT NULL THEN $8
        WHEN failing_since < now - $9 THEN 'it has failed for too long: ' || COALESCE($7, '') END
FROM clock, d WHERE w.tenant = $1 AND w.webhook_id = d.webhook_id AND disabled_at IS NULL
    AND (failing_since IS NULL OR failing_since < now - $9 OR $8::text IS NOT NULL)
RETURNING disabled_at
"""

RELEASE = f"""
UPDATE deliveries SET next_at = {_NOW}, attempts = attempts - 1
WHERE tenant = $1 AND delivery_id = $2 AND next_at = $3 AND status = 'pending'
"""

# What is being settled just now is passed over. `next_at` stays: an attempt that is under way and succeeds may still say so.
ABANDON = f"""
WITH found AS (
    SELECT tenant, delivery_id FROM deliveries WHERE tenant = $1 AND webhook_id = $2 AND status = 'pending'
    LIMIT {ABANDON_AT_ONCE} FOR UPDATE SKIP LOCKED)
UPDATE deliveries d SET status = 'failed', last_error = $3, finished_at = {_NOW}
FROM found f WHERE d.tenant = f.tenant AND d.delivery_id = f.delivery_id RETURNING 1
"""

GET = "SELECT * FROM deliveries WHERE tenant = $1 AND delivery_id = $2"

_OF_TENANT = """
SELECT * FROM deliveries WHERE tenant = $1 AND ($2::text IS NULL OR webhook_id = $2) AND ($3::text IS NULL OR delivery_id < $3)
    AND {status} ORDER BY delivery_id DESC LIMIT $4
"""
# The state stands in the text, so that the partial indexes serve.
OF_TENANT = {status: _OF_TENANT.format(status=f"status = '{status}'") for status in ("pending", "delivered", "failed")}
OF_TENANT_ALL = _OF_TENANT.format(status="true")

_AGAIN = f"status = 'pending', attempts = 0, next_at = {_NOW}, finished_at = NULL"

REPLAY = f"""
UPDATE deliveries d SET {_AGAIN} FROM webhooks w
WHERE d.tenant = $1 AND d.delivery_id = $2 AND d.status <> 'pending'
    AND w.tenant = d.tenant AND w.webhook_id = d.webhook_id AND w.disabled_at IS NULL
RETURNING d.*
"""

# Has this been done? Asked when a connection broke, maybe behind the commit.
REPLAYED = "SELECT * FROM deliveries WHERE tenant = $1 AND delivery_id = $2 AND status = 'pending'"

REPLAY_FAILED = f"""
WITH found AS (
    SELECT d.tenant, d.delivery_id FROM deliveries d JOIN webhooks w USING (tenant, webhook_id)
    WHERE d.tenant = $1 AND d.status = 'failed' AND ($2::text IS NULL OR d.webhook_id = $2) AND d.at >= $3 AND w.disabled_at IS NULL
    ORDER BY d.delivery_id LIMIT $4 FOR UPDATE OF d SKIP LOCKED)
UPDATE deliveries d SET {_AGAIN} FROM found f WHERE d.tenant = f.tenant AND d.delivery_id = f.delivery_id RETURNING 1
"""

PENDING = "SELECT count(*) AS n FROM deliveries WHERE status = 'pending'"


class PostgresDeliveries:
    """DeliveryStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def send(self, tenant: str, delivery_id: str, webhook_id: str, event_type: str, data: str) -> DeliveryRow | None:
        """One message to one webhook, whatever events it names; None when that is unknown or disabled."""
        row = await self._database.fetchrow(SEND, tenant, delivery_id, webhook_id, event_type, data)
        row = row or await self._database.fetchrow(GET, tenant, delivery_id)
        return delivery_of(row) if row else None

    async def due(self, room: Room, *, hold_seconds: float) -> Sequence[DueDelivery]:
        """As many messages that are due as there is room for."""
        busy = [[key[0] for key in room.busy], [key[1] for key in room.busy], list(room.busy.values())]
        rows = await self._database.fetch(DUE, hold_seconds, room.limit, room.per_tenant, room.per_host, *busy)
        return [due_of(r) for r in rows]

    async def settle(self, row: DeliveryRow, verdict: Verdict, *, patience_seconds: float) -> bool:
        """Writes what came of an attempt; whether the webhook is disabled now."""
        held = (row.tenant, row.delivery_id, row.next_at)
        if verdict.delivered:
            await self._database.fetch(DELIVERED, *held, verdict.status)
            return False
        done = await self._database.fetchrow(FAILED, *held, *verdict_values(verdict), verdict.disable, patience_seconds)
        return done is not None and done["disabled_at"] is not None

    async def release(self, row: DeliveryRow) -> None:
        """Gives a message back that was not tried to the end."""
        await self._database.fetch(RELEASE, row.tenant, row.delivery_id, row.next_at)

    async def abandon(self, tenant: str, webhook_id: str, reason: str) -> int:
        """Fails messages that wait for this webhook, some thousands at a time; how many."""
        return len(await self._database.fetch(ABANDON, tenant, webhook_id, reason))

    async def get(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """The message, None when unknown to this tenant."""
        row = await self._database.fetchrow(GET, tenant, delivery_id)
        return delivery_of(row) if row else None

    async def of_tenant(
        self, tenant: str, *, status: DeliveryStatus | None = None, webhook_id: str | None = None, before: str | None = None, limit: int
    ) -> Sequence[DeliveryRow]:
        """Messages with ids below `before`, newest first."""
        statement = OF_TENANT[status] if status else OF_TENANT_ALL
        return [delivery_of(r) for r in await self._database.fetch(statement, tenant, webhook_id, before, limit)]

    async def replay(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """A message that was delivered or has failed is due at once, its attempts counted anew."""
        place = (tenant, delivery_id)
        row = await self._database.run(either((REPLAY, *place), (REPLAYED, *place)))
        return delivery_of(row) if row else None

    async def replay_failed(self, tenant: str, *, webhook_id: str | None = None, since: float = 0.0, limit: int) -> int:
        """The same for messages that have failed, the oldest first; how many."""
        return len(await self._database.fetch(REPLAY_FAILED, tenant, webhook_id, since, limit))

    async def pending(self) -> int:
        """How many messages of all tenants wait."""
        return int((await self._database.fetchrow(PENDING))["n"])
