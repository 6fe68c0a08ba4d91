"""Rows of `learned_routes` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from typing import Any

import orjson

from heavy.intents.proposals import LoggedMessage
from heavy.storage.rows import Row, text
from heavy.turns.learned_routes import LearnedKey, LearnedRow


def learned_of(row: Row) -> LearnedRow:
    """A row of `learned_routes`."""
    return LearnedRow(
        key=key_of(row),
        message=row["message"],
        route=row["route"],
        seen=row["seen"],
        witness=row["witness"],
        state=row["state"],
        hits=row["hits"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
    )


def key_of(row: Row) -> LearnedKey:
    """The key columns."""
    return LearnedKey(row["tenant"], row["agent_id"], row["config_hash"], row["digest"])


def key_values(key: LearnedKey) -> tuple[str, str, str, str]:
    """The values of the key columns."""
    return (key.tenant, key.agent_id, key.config_hash, key.digest)


def values(row: LearnedRow) -> tuple[Any, ...]:
    """The values of all columns, in the order of the table."""
    life = (row.created_at, row.updated_at, row.expires_at)
    return (*key_values(row.key), text(row.message), row.route, row.seen, row.witness, row.state, row.hits, *life)


def logged_of(row: Row) -> LoggedMessage:
    """A turn's `request` and `reply` as a message of the log."""
    request, route = orjson.loads(row["request"]), orjson.loads(row["reply"]).get("route") or {}
    return LoggedMessage(str(request.get("message") or ""), str(route.get("action_type") or ""), route.get("action_target"))
