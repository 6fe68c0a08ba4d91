"""The config centre on SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts.rollout import Manifest
from heavy.configs.stores import AgentRow, ChangeRow, NewChange, NewVersion, TurnFigures, VersionRow
from heavy.storage.config_rows import (
    AGENTS,
    LISTED,
    agent_of,
    change_of,
    change_values,
    figures_of,
    manifest_of,
    said_in,
    version_of,
    version_values,
)
from heavy.storage.sqlite.sessions import Run, one

AGENT = "INSERT INTO config_agents (agent_id, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
ADD = """
INSERT INTO config_versions (agent_id, config_hash, form, text, author, note, problems, tests, created_at, version)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, (SELECT COALESCE(max(version), 0) + 1 FROM config_versions WHERE agent_id = ?1)
WHERE true ON CONFLICT DO NOTHING
"""
OF_HASH = "SELECT * FROM config_versions WHERE agent_id = ? AND config_hash = ?"
VERSIONS = f"SELECT {LISTED} FROM config_versions WHERE agent_id = ? ORDER BY version DESC LIMIT ?"
VERSION = "SELECT * FROM config_versions WHERE agent_id = ? AND version = ?"
PUT = """
UPDATE config_agents SET edition = edition + 1, active = ?3, canary = ?4, percent = ?5, previous = ?6,
    since = CASE WHEN active IS NOT ?3 THEN ?7 ELSE since END,
    canary_since = CASE WHEN ?4 IS NULL THEN NULL WHEN canary IS NOT ?4 THEN ?7 ELSE canary_since END
WHERE agent_id = ?1 AND edition = ?2 RETURNING agent_id
"""
TELL = "INSERT INTO config_changes (agent_id, at, change_id, action, version, percent, author, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
RAISE = "UPDATE config_revision SET revision = max(revision + 1, ?)"  # also past that of a database that was here before
CHANGED = "SELECT 1 FROM config_changes WHERE agent_id = ? AND change_id = ?"
CHANGES = "SELECT * FROM config_changes WHERE agent_id = ? ORDER BY at DESC, rowid DESC LIMIT ?"
REVISION = "SELECT revision FROM config_revision"
FIGURES = """
SELECT state, plan, llm_calls, cost_usd, created_at, finished_at FROM turns
WHERE agent_id = ? AND config_hash = ? AND created_at >= ? AND finished_at IS NOT NULL ORDER BY created_at DESC LIMIT ?
"""
MESSAGES = """
SELECT request, session_id FROM turns WHERE agent_id = ? AND state = 'done' AND request LIKE '%"message":%' ORDER BY rowid DESC LIMIT ?
"""


class SqliteConfigs:
    """ConfigStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def add(self, new: NewVersion) -> VersionRow:
        """Stores a version under the agent's next number; a text of the same hash is the version that it was."""

        def add(c: sqlite3.Connection) -> Any:
            now = time.time()
            c.execute(AGENT, (new.agent_id, now))
            c.execute(ADD, (*version_values(new), now))
            return c.execute(OF_HASH, (new.agent_id, new.config_hash)).fetchone()

        return version_of(await self._write(add))

    async def versions(self, agent_id: str, *, limit: int) -> Sequence[VersionRow]:
        """An agent's versions, the newest first, without texts."""
        return [version_of(r) for r in await self._read(lambda c: c.execute(VERSIONS, (agent_id, limit)).fetchall())]

    async def version(self, agent_id: str, version: int) -> VersionRow | None:
        """One version with its text."""
        row = await self._read(lambda c: c.execute(VERSION, (agent_id, version)).fetchone())
        return version_of(row) if row else None

    async def of_hash(self, agent_id: str, config_hash: str) -> VersionRow | None:
        """The version of that hash with its text."""
        row = await self._read(lambda c: c.execute(OF_HASH, (agent_id, config_hash)).fetchone())
        return version_of(row) if row else None

    async def agents(self) -> Sequence[AgentRow]:
        """Every agent that has a version, the oldest first."""
        return [agent_of(r) for r in await self._read(lambda c: c.execute(f"{AGENTS} ORDER BY a.created_at, a.agent_id").fetchall())]

    async def agent(self, agent_id: str) -> AgentRow | None:
        """One of them."""
        row = await self._read(lambda c: c.execute(f"{AGENTS} WHERE a.agent_id = ?", (agent_id,)).fetchone())
        return agent_of(row) if row else None

    async def change(self, before: AgentRow, after: AgentRow, change: NewChange) -> bool:
        """Puts `after` in the place of `before`, and notes the change."""
        values, now = change_values(before, after, change), time.time()

        def put(c: sqlite3.Connection) -> bool:
            if one(c, PUT, (*values[:6], now)) is None:
                return c.execute(CHANGED, (before.agent_id, change.change_id)).fetchone() is not None
            c.execute(TELL, (before.agent_id, now, *values[6:]))
            c.execute(RAISE, (int(now * 1000),))
            return True

        return bool(await self._write(put))

    async def changes(self, agent_id: str, *, limit: int) -> Sequence[ChangeRow]:
        """An agent's changes, the newest first."""
        return [change_of(r) for r in await self._read(lambda c: c.execute(CHANGES, (agent_id, limit)).fetchall())]

    async def revision(self) -> int:
        """The number of the last change."""
        return int((await self._read(lambda c: c.execute(REVISION).fetchone()))["revision"])

    async def manifest(self) -> Manifest:
        """What is in force. The revision is read first: what is read after it may be newer, never older."""

        def read(c: sqlite3.Connection) -> Manifest:
            revision = c.execute(REVISION).fetchone()["revision"]
            return manifest_of(revision, c.execute(f"{AGENTS} ORDER BY a.created_at, a.agent_id").fetchall())

        return await self._read(read)

    async def figures(self, agent_id: str, config_hash: str, *, since: float, limit: int) -> Sequence[TurnFigures]:
        """The last turns of a version that have ended, begun after `since`."""
        given = (agent_id, config_hash, since, limit)
        return [figures_of(r) for r in await self._read(lambda c: c.execute(FIGURES, given).fetchall())]

    async def messages(self, agent_id: str, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """The last messages of an agent's users."""
        return [said_in(r) for r in await self._read(lambda c: c.execute(MESSAGES, (agent_id, limit)).fetchall())]
