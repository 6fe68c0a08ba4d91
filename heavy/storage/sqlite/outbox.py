"""Makes the messages to webhooks of events, in the transaction that makes the events, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from heavy.storage.rows import Row
from heavy.storage.webhook_rows import new_delivery_id, wants

LISTENING = "SELECT webhook_id, host, events FROM webhooks WHERE tenant = ? AND kind = 'tenant' AND disabled_at IS NULL"
OWN = """
SELECT webhook_id, host, ?3 AS events FROM webhooks
WHERE tenant = ?1 AND webhook_id = ?2 AND kind = 'request' AND disabled_at IS NULL
"""
OF_TASKS = """
SELECT webhook_id, host, k.events FROM webhooks JOIN (
    SELECT DISTINCT webhook_id, webhook_events AS events FROM tasks
    WHERE tenant = ?1 AND session_id = ?2 AND webhook_events LIKE '% session.%') k USING (webhook_id)
WHERE tenant = ?1 AND kind = 'request' AND disabled_at IS NULL
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
    if events:
        listening = c.execute(LISTENING, (tenant,)).fetchall()
        own_ones = c.execute(OWN, (tenant, *own)).fetchall() if own is not None else []
        _tell(c, tenant, session_id, [*listening, *own_ones], events, at)


def add_messages_of_session(
    c: sqlite3.Connection, tenant: str, session_id: str, events: Sequence[tuple[str, str | None]], at: float
) -> None:
    """The same for events of a session: to the tenant's webhooks, and to those of requests of this session that want its events, too."""
    if events:
        listening = c.execute(LISTENING, (tenant,)).fetchall()
        _tell(c, tenant, session_id, [*listening, *c.execute(OF_TASKS, (tenant, session_id)).fetchall()], events, at)


def _tell(
    c: sqlite3.Connection,
    tenant: str,
    session_id: str | None,
    listening: Sequence[Row],
    events: Sequence[tuple[str, str | None]],
    at: float,
) -> None:
    told: set[tuple[str, int]] = set()
    for webhook in listening:
        wanted = [n for n, (kind, _) in enumerate(events) if wants(webhook["events"], kind) and (webhook["webhook_id"], n) not in told]
        told |= {(webhook["webhook_id"], n) for n in wanted}
        made = [(new_delivery_id(at), *events[n]) for n in wanted]
        place = (webhook["webhook_id"], session_id, webhook["host"])
        c.executemany(INSERT, [(tenant, delivery_id, *place, kind, data, at) for delivery_id, kind, data in made])
