"""Makes the messages to webhooks of events, in the transaction that makes the events, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from heavy.storage.webhook_rows import new_delivery_id, wants

LISTENING = "SELECT webhook_id, host, events FROM webhooks WHERE tenant = ? AND kind = 'tenant' AND disabled_at IS NULL"
OWN = """
SELECT webhook_id, host, ?3 AS events FROM webhooks
WHERE tenant = ?1 AND webhook_id = ?2 AND kind = 'request' AND disabled_at IS NULL
"""

INSERT = """
INSERT INTO deliveries (tenant, delivery_id, webhook_id, session_id, host, type, data, at, next_at, created_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?8)
"""


def add_messages(
    c: sqlite3.Connection,
    tenant: str,
    session_id: str | None,
    events: Sequence[tuple[str, str | None]],
    at: float,
    own: tuple[str, str | None] | None = None,
) -> None:
    """For each event (type, data as JSON text) one message to every enabled webhook of the tenant that wants the type, and to the one
    webhook of a request, if `own` (webhook id, names of events with a space before and behind each, None for all) wants it."""
    if not events:
        return
    listening = c.execute(LISTENING, (tenant,)).fetchall()
    if own is not None:
        listening += c.execute(OWN, (tenant, *own)).fetchall()
    for webhook in listening:
        made = [(new_delivery_id(at), kind, data) for kind, data in events if wants(webhook["events"], kind)]
        place = (webhook["webhook_id"], session_id, webhook["host"])
        c.executemany(INSERT, [(tenant, delivery_id, *place, kind, data, at) for delivery_id, kind, data in made])
