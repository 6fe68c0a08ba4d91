"""Learned routes on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from heavy.intents.proposals import LoggedMessage
from heavy.storage.learned_rows import key_of, key_values, learned_of, logged_of, values
from heavy.storage.sqlite.sessions import Run
from heavy.turns.learned_routes import LearnedKey, LearnedRow, Sighting, after

GET = "SELECT * FROM learned_routes WHERE tenant = ? AND agent_id = ? AND config_hash = ? AND digest = ?"
PUT = """
INSERT OR REPLACE INTO learned_routes
    (tenant, agent_id, config_hash, digest, message, route, seen, witness, state, hits, created_at, updated_at, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
ACTIVE = """
SELECT * FROM learned_routes WHERE agent_id = ? AND config_hash = ? AND state = 'active' AND expires_at > ?
ORDER BY hits DESC, updated_at DESC LIMIT ?
"""
OF_AGENT = """
SELECT * FROM learned_routes WHERE tenant = ? AND agent_id = ? AND expires_at > ?
ORDER BY state = 'active' DESC, hits DESC, seen DESC, digest LIMIT ?
"""
FORGET = "DELETE FROM learned_routes WHERE tenant = ?1 AND agent_id = ?2 AND (?3 IS NULL OR digest = ?3) RETURNING *"
HITS = "UPDATE learned_routes SET hits = hits + ? WHERE tenant = ? AND agent_id = ? AND config_hash = ? AND digest = ?"
PRUNE = "DELETE FROM learned_routes WHERE expires_at <= ?"
# Turn ids sort by time, and their index has the tenant in front.
LOG = """
SELECT request, reply FROM turns WHERE tenant = ? AND agent_id = ? AND state = 'done' AND reply IS NOT NULL ORDER BY turn_id DESC LIMIT ?
"""


class SqliteLearned:
    """LearnedStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def observe(self, sighting: Sighting, now: float) -> LearnedRow | None:
        """Applies what was seen to the route's row."""

        def apply(c: sqlite3.Connection) -> LearnedRow | None:
            found = c.execute(GET, key_values(sighting.key)).fetchone()
            before = learned_of(found) if found else None
            row = after(before, sighting, now)
            if row is not None and row != before:
                c.execute(PUT, values(row))
            return row

        return await self._write(apply)

    async def active(self, agent_id: str, config_hash: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """The active routes of a version."""
        rows = await self._read(lambda c: c.execute(ACTIVE, (agent_id, config_hash, now, limit)).fetchall())
        return [learned_of(r) for r in rows]

    async def of_agent(self, tenant: str, agent_id: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """All routes of a tenant's agent."""
        rows = await self._read(lambda c: c.execute(OF_AGENT, (tenant, agent_id, now, limit)).fetchall())
        return [learned_of(r) for r in rows]

    async def forget(self, tenant: str, agent_id: str, digest: str | None = None) -> Sequence[LearnedKey]:
        """Erases routes."""
        rows = await self._write(lambda c: c.execute(FORGET, (tenant, agent_id, digest)).fetchall())
        return [key_of(r) for r in rows]

    async def count_hits(self, hits: Mapping[LearnedKey, int]) -> None:
        """Adds to the hits of routes."""
        counts = [(n, *key_values(key)) for key, n in hits.items()]
        await self._write(lambda c: c.executemany(HITS, counts).rowcount)

    async def prune(self, now: float) -> None:
        """Erases what has expired."""
        await self._write(lambda c: c.execute(PRUNE, (now,)).rowcount)

    async def log(self, tenant: str, agent_id: str, *, limit: int) -> Sequence[LoggedMessage]:
        """The agent's last messages and what answered them."""
        rows = await self._read(lambda c: c.execute(LOG, (tenant, agent_id, limit)).fetchall())
        return [logged_of(r) for r in rows]
