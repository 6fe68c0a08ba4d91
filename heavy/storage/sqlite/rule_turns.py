"""Rule-answered turns on SQLite: a batch of them with their sessions, messages and timers is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from common.contracts.journal import JournalEntry
from heavy.storage.rows import RULE_COLUMNS, rule_rows
from heavy.storage.sqlite.sessions import INSERT_MESSAGE, arm, one
from heavy.turns.rows import ArmTimer

KNOWN = "SELECT 1 FROM turns WHERE tenant = :tenant AND turn_id = :turn_id"

RULE_SESSION = """
INSERT INTO sessions (tenant, session_id, agent_id, user_id, status, config_hash, greeting, turn_seq, active, message_count, created_at,
    updated_at, transferred_at)
VALUES (:tenant, :session_id, :agent_id, :user_id, COALESCE(NULLIF(:status, ''), 'ready'), :config_hash, :greeting, 1, 0, 2, :at, :at,
    CASE WHEN :status = 'transferred' THEN :at END)
ON CONFLICT (tenant, session_id) DO UPDATE SET
    turn_seq = turn_seq + 1, message_count = message_count + 2, status = COALESCE(NULLIF(:status, ''), status),
    transferred_at = CASE :status WHEN '' THEN transferred_at WHEN 'transferred' THEN COALESCE(transferred_at, excluded.transferred_at) END,
    greeting = COALESCE(NULLIF(:greeting, ''), greeting), user_id = COALESCE(user_id, excluded.user_id),
    config_hash = excluded.config_hash, updated_at = max(updated_at, excluded.updated_at)
RETURNING turn_seq
"""

RULE_TURN = """
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, config_hash, request, reply, created_at, started_at, finished_at)
VALUES (:tenant, :session_id, :seq, :turn_id, :agent_id, 'done', :config_hash, :request, :reply, :began, :began, :at)
"""


def record(entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer]) -> Callable[[sqlite3.Connection], int]:
    """Work that stores rule-answered turns and arms the timers of their agents; it gives how many turns were new."""
    rows = [dict(zip(RULE_COLUMNS, values, strict=True)) for values in rule_rows(entries)]

    def store(c: sqlite3.Connection) -> int:
        new = 0
        for row in rows:
            if c.execute(KNOWN, row).fetchone():
                continue
            new += 1
            row["seq"] = one(c, RULE_SESSION, row)["turn_seq"]
            c.execute(RULE_TURN, row)
            place = (row["tenant"], row["session_id"], row["seq"])
            c.execute(INSERT_MESSAGE, (*place, 0, row["turn_id"], row["question"], row["at"]))
            c.execute(INSERT_MESSAGE, (*place, 1, row["turn_id"], row["answer"], row["at"]))
            if row["agent_id"] in timers:
                arm(c, row, [timers[row["agent_id"]]], row["seq"], row["at"])
        return new

    return store
