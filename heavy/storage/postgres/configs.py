"""The config centre on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts.rollout import Manifest
from heavy.configs.stores import AgentRow, ChangeRow, NewChange, NewVersion, TurnFigures, VersionRow
from heavy.storage.config_rows import (
    AGENTS,
    LISTED,
    MOST_TRIES,
    agent_of,
    change_of,
    change_values,
    figures_of,
    manifest_of,
    said_in,
    version_of,
    version_values,
)
from heavy.storage.postgres.sessions import Runner
from heavy.turns.stores import DatabaseUnavailable

NOW = "extract(epoch FROM clock_timestamp())::float8"
ADD = f"""
WITH agent AS (INSERT INTO config_agents (agent_id, created_at) VALUES ($1, {NOW}) ON CONFLICT DO NOTHING)
INSERT INTO config_versions (agent_id, version, config_hash, form, text, author, note, problems, tests, created_at)
SELECT $1, (SELECT COALESCE(max(version), 0) + 1 FROM config_versions WHERE agent_id = $1), $2, $3, $4, $5, $6, $7, $8, {NOW}
WHERE NOT EXISTS (SELECT 1 FROM config_versions WHERE agent_id = $1 AND config_hash = $2)
ON CONFLICT DO NOTHING RETURNING *
"""
OF_HASH = "SELECT * FROM config_versions WHERE agent_id = $1 AND config_hash = $2"
VERSIONS = f"SELECT {LISTED} FROM config_versions WHERE agent_id = $1 ORDER BY version DESC LIMIT $2"
VERSION = "SELECT * FROM config_versions WHERE agent_id = $1 AND version = $2"
CHANGE = f"""
WITH put AS (
    UPDATE config_agents SET edition = edition + 1, active = $3::integer, canary = $4::integer, percent = $5, previous = $6::integer,
        since = CASE WHEN active IS DISTINCT FROM $3::integer THEN {NOW} ELSE since END,
        canary_since = CASE WHEN $4::integer IS NULL THEN NULL WHEN canary IS DISTINCT FROM $4::integer THEN {NOW} ELSE canary_since END
    WHERE agent_id = $1 AND edition = $2 RETURNING agent_id),
told AS (
    INSERT INTO config_changes (agent_id, change_id, at, action, version, percent, author, note)
    SELECT agent_id, $7, {NOW}, $8, $9::integer, $10::float8, $11, $12 FROM put),
raised AS (UPDATE config_revision SET revision = GREATEST(revision + 1, ({NOW} * 1000)::bigint) WHERE EXISTS (SELECT 1 FROM put))
SELECT agent_id FROM put
"""
CHANGED = "SELECT 1 FROM config_changes WHERE agent_id = $1 AND change_id = $2"
CHANGES = "SELECT * FROM config_changes WHERE agent_id = $1 ORDER BY at DESC, change_id LIMIT $2"
REVISION = "SELECT revision FROM config_revision"
FIGURES = """
SELECT state, plan, llm_calls, cost_usd, created_at, finished_at FROM turns
WHERE created_at >= $3 AND agent_id = $1 AND config_hash = $2 AND finished_at IS NOT NULL ORDER BY created_at DESC LIMIT $4
"""
MESSAGES = f"""
SELECT request, session_id FROM turns
WHERE created_at >= {NOW} - $3 AND agent_id = $1 AND state = 'done' AND request LIKE '%"message":%' ORDER BY created_at DESC LIMIT $2
"""
BACK = (3600.0, 86400.0, 30 * 86400.0)  # seconds: the whole of a large table is not gone through where the last hour has enough


class PostgresConfigs:
    """ConfigStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def add(self, new: NewVersion) -> VersionRow:
        """Stores a version under the agent's next number; a text of the same hash is the version that it was."""
        for _ in range(MOST_TRIES):
            row = await self._database.fetchrow(ADD, *version_values(new))
            row = row or await self._database.fetchrow(OF_HASH, new.agent_id, new.config_hash)
            if row is not None:  # else another version has taken the number
                return version_of(row)
        raise DatabaseUnavailable("too many versions of this agent are stored at once", retry_after=1)

    async def versions(self, agent_id: str, *, limit: int) -> Sequence[VersionRow]:
        """An agent's versions, the newest first, without texts."""
        return [version_of(r) for r in await self._database.fetch(VERSIONS, agent_id, limit)]

    async def version(self, agent_id: str, version: int) -> VersionRow | None:
        """One version with its text."""
        row = await self._database.fetchrow(VERSION, agent_id, version)
        return version_of(row) if row else None

    async def of_hash(self, agent_id: str, config_hash: str) -> VersionRow | None:
        """The version of that hash with its text."""
        row = await self._database.fetchrow(OF_HASH, agent_id, config_hash)
        return version_of(row) if row else None

    async def agents(self) -> Sequence[AgentRow]:
        """Every agent that has a version, the oldest first."""
        return [agent_of(r) for r in await self._database.fetch(f"{AGENTS} ORDER BY a.created_at, a.agent_id")]

    async def agent(self, agent_id: str) -> AgentRow | None:
        """One of them."""
        row = await self._database.fetchrow(f"{AGENTS} WHERE a.agent_id = $1", agent_id)
        return agent_of(row) if row else None

    async def change(self, before: AgentRow, after: AgentRow, change: NewChange) -> bool:
        """Puts `after` in the place of `before`, and notes the change."""
        if await self._database.fetchrow(CHANGE, *change_values(before, after, change)):
            return True
        return await self._database.fetchrow(CHANGED, before.agent_id, change.change_id) is not None

    async def changes(self, agent_id: str, *, limit: int) -> Sequence[ChangeRow]:
        """An agent's changes, the newest first."""
        return [change_of(r) for r in await self._database.fetch(CHANGES, agent_id, limit)]

    async def revision(self) -> int:
        """The number of the last change."""
        return int((await self._database.fetchrow(REVISION))["revision"])

    async def manifest(self) -> Manifest:
        """What is in force. The revision is read first: what is read after it may be newer, never older."""
        revision = await self.revision()
        return manifest_of(revision, await self._database.fetch(f"{AGENTS} ORDER BY a.created_at, a.agent_id"))

    async def figures(self, agent_id: str, config_hash: str, *, since: float, limit: int) -> Sequence[TurnFigures]:
        """The last turns of a version that have ended, begun after `since`."""
        return [figures_of(r) for r in await self._database.fetch(FIGURES, agent_id, config_hash, since, limit)]

    async def messages(self, agent_id: str, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """The last messages of an agent's users, of the last 30 days."""
        rows: list[Any] = []
        for seconds in BACK:
            rows = await self._database.fetch(MESSAGES, agent_id, limit, seconds)
            if len(rows) >= limit:
                break
        return [said_in(r) for r in rows]
