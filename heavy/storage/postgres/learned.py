"""Learned routes on PostgreSQL. They are written in the background, a few for each message that an LLM routed: plain statements do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heavy.intents.proposals import LoggedMessage
from heavy.storage.learned_rows import key_of, key_values, learned_of, logged_of, values
from heavy.storage.postgres.sessions import Runner
from heavy.turns.learned_routes import LearnedKey, LearnedRow, Sighting, after

# Two nodes that see a message at the same time queue here; a row lock would not do, because there may be no row yet.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
GET = "SELECT * FROM learned_routes WHERE tenant = $1 AND agent_id = $2 AND config_hash = $3 AND digest = $4"
PUT = """
INSERT INTO learned_routes
    (tenant, agent_id, config_hash, digest, message, route, seen, witness, state, hits, created_at, updated_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (tenant, agent_id, config_hash, digest) DO UPDATE SET message = excluded.message, route = excluded.route,
    seen = excluded.seen, witness = excluded.witness, state = excluded.state, hits = excluded.hits, created_at = excluded.created_at,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at
"""
ACTIVE = """
SELECT * FROM learned_routes WHERE agent_id = $1 AND config_hash = $2 AND state = 'active' AND expires_at > $3
ORDER BY hits DESC, updated_at DESC LIMIT $4
"""
OF_AGENT = """
SELECT * FROM learned_routes WHERE tenant = $1 AND agent_id = $2 AND expires_at > $3
ORDER BY state = 'active' DESC, hits DESC, seen DESC, digest LIMIT $4
"""
FORGET = """
DELETE FROM learned_routes WHERE tenant = $1 AND agent_id = $2 AND ($3::text IS NULL OR digest = $3)
RETURNING tenant, agent_id, config_hash, digest
"""
HITS = "UPDATE learned_routes SET hits = hits + $5 WHERE tenant = $1 AND agent_id = $2 AND config_hash = $3 AND digest = $4"
PRUNE = "DELETE FROM learned_routes WHERE expires_at <= $1"
# Turn ids sort by time, and their index has the tenant in front.
LOG = """
SELECT request, reply FROM turns WHERE tenant = $1 AND agent_id = $2 AND state = 'done' AND reply IS NOT NULL
ORDER BY turn_id DESC LIMIT $3
"""


class PostgresLearned:
    """LearnedStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def observe(self, sighting: Sighting, now: float) -> LearnedRow | None:
        """Applies what was seen to the route's row."""
        key = key_values(sighting.key)

        async def apply(connection: Any) -> LearnedRow | None:
            async with connection.transaction():
                await connection.execute(LOCK, "/".join(key))
                found = await connection.fetchrow(GET, *key)
                before = learned_of(found) if found else None
                row = after(before, sighting, now)
                if row is not None and row != before:
                    await connection.execute(PUT, *values(row))
                return row

        return await self._database.run(apply)

    async def active(self, agent_id: str, config_hash: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """The active routes of a version."""
        return [learned_of(r) for r in await self._database.fetch(ACTIVE, agent_id, config_hash, now, limit)]

    async def of_agent(self, tenant: str, agent_id: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """All routes of a tenant's agent."""
        return [learned_of(r) for r in await self._database.fetch(OF_AGENT, tenant, agent_id, now, limit)]

    async def forget(self, tenant: str, agent_id: str, digest: str | None = None) -> Sequence[LearnedKey]:
        """Erases routes."""
        return [key_of(r) for r in await self._database.fetch(FORGET, tenant, agent_id, digest)]

    async def count_hits(self, hits: Mapping[LearnedKey, int]) -> None:
        """Adds to the hits of routes, in one order for all callers, so that two never wait for each other."""
        counts = sorted((*key_values(key), n) for key, n in hits.items())

        async def apply(connection: Any) -> None:
            await connection.executemany(HITS, counts)

        await self._database.run(apply)

    async def prune(self, now: float) -> None:
        """Erases what has expired."""
        await self._database.fetch(PRUNE, now)

    async def log(self, tenant: str, agent_id: str, *, limit: int) -> Sequence[LoggedMessage]:
        """The agent's last messages and what answered them."""
        return [logged_of(r) for r in await self._database.fetch(LOG, tenant, agent_id, limit)]
