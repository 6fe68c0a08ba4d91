"""Messages to webhooks on SQLite: handed out, each to one caller, and settled. Events make them (outbox)."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from heavy.storage.sqlite.sessions import Run, one
from heavy.storage.webhook_rows import delivery_of, due_of, verdict_values
from heavy.turns.webhooks import DeliveryRow, DeliveryStatus, DueDelivery, Room, Verdict

ABANDON_AT_ONCE = 5000

SEND = """
INSERT INTO deliveries (tenant, delivery_id, webhook_id, host, type, data, at, next_at, created_at)
SELECT tenant, ?2, webhook_id, host, ?4, ?5, ?6, ?6, ?6 FROM webhooks WHERE tenant = ?1 AND webhook_id = ?3 AND disabled_at IS NULL
ON CONFLICT DO NOTHING
"""

# From one lane (a tenant's host with something pending) to the next: one probe of the index for each, however many messages wait in it.
NEXT_LANE = """
SELECT tenant, host FROM deliveries WHERE status = 'pending' AND (tenant, host) > (?, ?) ORDER BY tenant, host LIMIT 1
"""
DUE_IN_LANE = """
SELECT next_at, tenant, delivery_id FROM deliveries WHERE status = 'pending' AND tenant = ? AND host = ? AND next_at <= ?
ORDER BY next_at LIMIT ?
"""

TAKE = "UPDATE deliveries SET next_at = ?3, attempts = attempts + 1 WHERE tenant = ?1 AND delivery_id = ?2"
TAKEN = """
SELECT d.*, w.url, w.secret, w.disabled_at FROM deliveries d LEFT JOIN webhooks w USING (tenant, webhook_id)
WHERE d.tenant = ? AND d.delivery_id = ?
"""

DELIVERED = """
UPDATE deliveries SET status = 'delivered', finished_at = ?5, last_status = ?4, last_error = NULL
WHERE tenant = ?1 AND delivery_id = ?2 AND next_at = ?3
"""
SUCCEEDED = "UPDATE webhooks SET failing_since = NULL WHERE tenant = ? AND webhook_id = ? AND failing_since IS NOT NULL"

FAILED = """
UPDATE deliveries SET status = ?4, next_at = CASE ?4 WHEN 'pending' THEN ?8 + ?5 ELSE next_at END, last_status = ?6, last_error = ?7,
    finished_at = CASE ?4 WHEN 'failed' THEN ?8 END
WHERE tenant = ?1 AND delivery_id = ?2 AND next_at = ?3 AND status = 'pending'
"""
FAILING = """
UPDATE webhooks SET failing_since = COALESCE(failing_since, ?3),
    disabled_at = CASE WHEN ?5 IS NOT NULL OR failing_since < ?3 - ?6 THEN ?3 END,
    disabled_reason = CASE WHEN ?5 IS NOT NULL THEN ?5
        WHEN failing_since < ?3 - ?6 THEN 'it has failed for too long: ' || COALESCE(?4, '') END
WHERE tenant = ?1 AND webhook_id = ?2 AND disabled_at IS NULL RETURNING disabled_at
"""

RELEASE = """
UPDATE deliveries SET next_at = ?4, attempts = attempts - 1
WHERE tenant = ?1 AND delivery_id = ?2 AND next_at = ?3 AND status = 'pending'
"""

# `next_at` stays: an attempt that is under way and succeeds may still say so.
ABANDON = f"""
UPDATE deliveries SET status = 'failed', last_error = ?3, finished_at = ?4 WHERE rowid IN (
    SELECT rowid FROM deliveries WHERE tenant = ?1 AND webhook_id = ?2 AND status = 'pending' LIMIT {ABANDON_AT_ONCE})
"""

GET = "SELECT * FROM deliveries WHERE tenant = ? AND delivery_id = ?"

_OF_TENANT = """
SELECT * FROM deliveries WHERE tenant = ?1 AND (?2 IS NULL OR webhook_id = ?2) AND (?3 IS NULL OR delivery_id < ?3) AND {status}
ORDER BY delivery_id DESC LIMIT ?4
"""
# The state stands in the text, so that the partial indexes serve.
OF_TENANT = {status: _OF_TENANT.format(status=f"status = '{status}'") for status in ("pending", "delivered", "failed")}
OF_TENANT_ALL = _OF_TENANT.format(status="true")

REPLAY = """
UPDATE deliveries SET status = 'pending', attempts = 0, next_at = ?3, finished_at = NULL
WHERE tenant = ?1 AND delivery_id = ?2 AND status <> 'pending' AND EXISTS (
    SELECT 1 FROM webhooks w WHERE w.tenant = deliveries.tenant AND w.webhook_id = deliveries.webhook_id AND w.disabled_at IS NULL)
RETURNING *
"""

REPLAY_FAILED = """
UPDATE deliveries SET status = 'pending', attempts = 0, next_at = ?5, finished_at = NULL WHERE rowid IN (
    SELECT d.rowid FROM deliveries d JOIN webhooks w USING (tenant, webhook_id)
    WHERE d.tenant = ?1 AND d.status = 'failed' AND (?2 IS NULL OR d.webhook_id = ?2) AND d.at >= ?3 AND w.disabled_at IS NULL
    ORDER BY d.delivery_id LIMIT ?4)
"""

PENDING = "SELECT count(*) FROM deliveries WHERE status = 'pending'"


class SqliteDeliveries:
    """DeliveryStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def send(self, tenant: str, delivery_id: str, webhook_id: str, event_type: str, data: str) -> DeliveryRow | None:
        """One message to one webhook, whatever events it names; None when that is unknown or disabled."""

        def add(c: sqlite3.Connection) -> Any:
            c.execute(SEND, (tenant, delivery_id, webhook_id, event_type, data, time.time()))
            return c.execute(GET, (tenant, delivery_id)).fetchone()

        row = await self._write(add)
        return delivery_of(row) if row else None

    async def due(self, room: Room, *, hold_seconds: float) -> Sequence[DueDelivery]:
        """As many messages that are due as there is room for."""

        def take(c: sqlite3.Connection) -> list[Any]:
            now = time.time()
            found = _choose(c, room, now)
            c.executemany(TAKE, [(*key, now + hold_seconds) for key in found])
            return [c.execute(TAKEN, key).fetchone() for key in sorted(found, key=lambda key: key[1])]

        return [due_of(r) for r in await self._write(take)]

    async def settle(self, row: DeliveryRow, verdict: Verdict, *, patience_seconds: float) -> bool:
        """Writes what came of an attempt; whether the webhook is disabled now."""
        held, webhook = (row.tenant, row.delivery_id, row.next_at), (row.tenant, row.webhook_id)
        failed = verdict_values(verdict)

        def write(c: sqlite3.Connection) -> bool:
            now = time.time()
            if verdict.delivered:
                if c.execute(DELIVERED, (*held, verdict.status, now)).rowcount:
                    c.execute(SUCCEEDED, webhook)
                return False
            if not c.execute(FAILED, (*held, *failed, now)).rowcount:
                return False
            done = one(c, FAILING, (*webhook, now, failed[-1], verdict.disable, patience_seconds))
            return done is not None and done["disabled_at"] is not None

        return await self._write(write)

    async def release(self, row: DeliveryRow) -> None:
        """Gives a message back that was not tried to the end."""
        held = (row.tenant, row.delivery_id, row.next_at)
        await self._write(lambda c: c.execute(RELEASE, (*held, time.time())).rowcount)

    async def abandon(self, tenant: str, webhook_id: str, reason: str) -> int:
        """Fails messages that wait for this webhook, some thousands at a time; how many."""
        return await self._write(lambda c: c.execute(ABANDON, (tenant, webhook_id, reason, time.time())).rowcount)

    async def get(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """The message, None when unknown to this tenant."""
        row = await self._read(lambda c: c.execute(GET, (tenant, delivery_id)).fetchone())
        return delivery_of(row) if row else None

    async def of_tenant(
        self, tenant: str, *, status: DeliveryStatus | None = None, webhook_id: str | None = None, before: str | None = None, limit: int
    ) -> Sequence[DeliveryRow]:
        """Messages with ids below `before`, newest first."""
        statement = OF_TENANT[status] if status else OF_TENANT_ALL
        return [delivery_of(r) for r in await self._read(lambda c: c.execute(statement, (tenant, webhook_id, before, limit)).fetchall())]

    async def replay(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """A message that was delivered or has failed is due at once, its attempts counted anew."""
        row = await self._write(lambda c: one(c, REPLAY, (tenant, delivery_id, time.time())))
        return delivery_of(row) if row else None

    async def replay_failed(self, tenant: str, *, webhook_id: str | None = None, since: float = 0.0, limit: int) -> int:
        """The same for messages that have failed, the oldest first; how many."""
        return await self._write(lambda c: c.execute(REPLAY_FAILED, (tenant, webhook_id, since, limit, time.time())).rowcount)

    async def pending(self) -> int:
        """How many messages of all tenants wait."""
        return int((await self._read(lambda c: c.execute(PENDING).fetchone()))[0])


def _lanes(c: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    place = ("", "")
    while (row := c.execute(NEXT_LANE, place).fetchone()) is not None:
        place = (row["tenant"], row["host"])
        yield place


def _choose(c: sqlite3.Connection, room: Room, now: float) -> list[tuple[str, str]]:
    """The keys of the messages to hand out: those that are overdue the longest, within what there is room for."""
    found = []
    for lane in _lanes(c):
        free = room.per_host - room.busy.get(lane, 0)
        if free > 0:
            found += [tuple(r) for r in c.execute(DUE_IN_LANE, (*lane, now, free))]
    sent: Counter[str] = Counter()
    for (tenant, _), count in room.busy.items():
        sent[tenant] += count
    chosen: list[tuple[str, str]] = []
    for _, tenant, delivery_id in sorted(found):
        if len(chosen) < room.limit and sent[tenant] < room.per_tenant:
            sent[tenant] += 1
            chosen.append((tenant, delivery_id))
    return chosen
