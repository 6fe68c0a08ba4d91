"""What the end of a task means for its batch, on SQLite: one open item less, and at none the batch is finished, and webhooks are told."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import orjson

from common.contracts.webhooks import BATCH_EVENTS
from heavy.storage.sqlite.outbox import add_messages
from heavy.storage.sqlite.task_statements import CLOSE_ONE, EMPTY_ITEMS, ERASE, ERASE_ITEMS


def close_one(c: sqlite3.Connection, tenant: str, batch_id: str, now: float) -> None:
    """Counts one open item less."""
    rows = c.execute(CLOSE_ONE, (tenant, batch_id, now)).fetchall()
    if rows and rows[0]["finished_at"] is not None:
        tell_finished(c, rows[0])


def tell_finished(c: sqlite3.Connection, batch: Any) -> None:
    """Makes the messages of a batch that is finished. `batch` is its row."""
    data = orjson.dumps({name: batch[name] for name in ("batch_id", "total", "rejected")}).decode()
    add_messages(c, batch["tenant"], None, [(BATCH_EVENTS[0], data)], batch["finished_at"], own_of(batch))


def own_of(row: Any) -> tuple[str, str | None] | None:
    """The webhook that came with the request, of a row of tasks or batches."""
    return None if row["webhook_id"] is None else (row["webhook_id"], row["webhook_events"])


def erase_tasks(c: sqlite3.Connection, tenant: str, session_id: str) -> int:
    """Erases the tasks of a session; how many there were. Items of batches become empty places."""
    place, now = (tenant, session_id), time.time()
    erased = c.execute(ERASE, place).rowcount
    for row in c.execute(ERASE_ITEMS, (*place, now)).fetchall():
        close_one(c, tenant, row["batch_id"], now)
    return erased + c.execute(EMPTY_ITEMS, place).rowcount
