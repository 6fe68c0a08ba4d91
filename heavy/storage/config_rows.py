"""Rows of the config centre to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from common.contracts.rollout import Manifest, Serving
from heavy.configs.stores import AgentRow, ChangeRow, NewChange, NewVersion, TurnFigures, VersionRow
from heavy.storage.rows import Row, from_json, text

MOST_TRIES = 20  # of finding the next number of a version, while others find it, too

LISTED = "agent_id, version, config_hash, form, author, note, created_at, problems, tests, '' AS text"
AGENTS = """
SELECT a.*, v.config_hash AS active_hash, c.config_hash AS canary_hash, p.config_hash AS previous_hash,
    (SELECT count(*) FROM config_versions n WHERE n.agent_id = a.agent_id) AS version_count
FROM config_agents a
LEFT JOIN config_versions v ON v.agent_id = a.agent_id AND v.version = a.active
LEFT JOIN config_versions c ON c.agent_id = a.agent_id AND c.version = a.canary
LEFT JOIN config_versions p ON p.agent_id = a.agent_id AND p.version = a.previous
"""


def version_values(new: NewVersion) -> tuple[Any, ...]:
    """Agent, hash, form, text, author, note, problems, tests."""
    problems, tests = orjson.dumps(list(new.problems)).decode(), orjson.dumps(new.tests).decode()
    return (new.agent_id, new.config_hash, new.form, new.text, text(new.author), text(new.note), text(problems), text(tests))


def version_of(row: Row) -> VersionRow:
    """A row of `config_versions`."""
    return VersionRow(
        row["agent_id"],
        row["version"],
        row["config_hash"],
        row["form"],
        row["author"],
        row["note"],
        row["created_at"],
        from_json(row["problems"]),
        from_json(row["tests"]),
        row["text"],
    )


def agent_of(row: Row) -> AgentRow:
    """A row of `AGENTS`."""
    return AgentRow(**{name: row[name] for name in AgentRow.__dataclass_fields__})


def change_values(before: AgentRow, after: AgentRow, change: NewChange) -> tuple[Any, ...]:
    """Agent, edition; active, canary, percent, previous; id, action, version, percent, author, note of the change."""
    state = (before.agent_id, before.edition, after.active, after.canary, after.percent, after.previous)
    return (*state, change.change_id, change.action, change.version, change.percent, text(change.author), text(change.note))


def change_of(row: Row) -> ChangeRow:
    """A row of `config_changes`."""
    return ChangeRow(row["at"], row["action"], row["version"], row["percent"], row["author"], row["note"])


def manifest_of(revision: int, rows: Iterable[Row]) -> Manifest:
    """What is in force, in the order of the agents' age."""
    agents = {row.agent_id: row for row in map(agent_of, rows) if row.active_hash}
    return Manifest(revision, {i: Serving(r.active_hash or "", r.canary_hash, r.percent, r.previous_hash) for i, r in agents.items()})


def figures_of(row: Row) -> TurnFigures:
    """A row of a query for figures."""
    plan = from_json(row["plan"]) or {}
    seconds = max(0.0, row["finished_at"] - row["created_at"])
    return TurnFigures(row["state"] == "failed", bool(plan.get("escalated")), row["llm_calls"], row["cost_usd"], seconds)


def said_in(row: Row) -> dict[str, Any]:
    """A row of a query for messages."""
    request = from_json(row["request"]) or {}
    return {"message": request.get("message"), "context": request.get("context") or {}, "session_id": row["session_id"]}
