"""The upkeep on PostgreSQL: a walk over all sessions in the order of their keys, a page at a time, and what is too old of each."""

from __future__ import annotations

from typing import Any

from heavy.jobs.upkeep import Page, Place, Progress, Purged, Sizes
from heavy.storage.postgres.sessions import Runner
from heavy.storage.rows import from_json, to_json
from heavy.storage.upkeep_rows import page_of

NAME = "purge"

# $1 name, $2 owner, $3 lease, $4 how often, $5 the progress of a new one
BEGIN = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now)
INSERT INTO purges AS p (name, owner, lease_until, progress, started_at) SELECT $1, $2, now + $3, $5, now FROM clock
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until,
    progress = CASE WHEN p.finished_at IS NULL THEN p.progress ELSE excluded.progress END,
    started_at = CASE WHEN p.finished_at IS NULL THEN p.started_at ELSE excluded.started_at END, finished_at = NULL
WHERE CASE WHEN p.finished_at IS NULL THEN p.lease_until < excluded.started_at OR p.owner = excluded.owner
    ELSE p.started_at <= excluded.started_at - $4 END
RETURNING progress
"""

SAVE = """
UPDATE purges SET progress = $3, lease_until = extract(epoch FROM now())::float8 + $4,
    finished_at = CASE WHEN $5::bool THEN extract(epoch FROM now())::float8 END
WHERE name = $1 AND owner = $2 AND (finished_at IS NULL OR $5) RETURNING name
"""

LAST = "SELECT * FROM purges WHERE name = $1"

PAGE = """
SELECT tenant, session_id, active, created_at, updated_at FROM sessions WHERE (tenant, session_id) > ($1, $2)
ORDER BY tenant, session_id LIMIT $3
"""

# $1 tenant, $2 session, $3 the time. What was asked and what was answered go together.
ERASE_TURNS = """
WITH t AS (
    DELETE FROM turns t USING sessions s
    WHERE s.tenant = $1 AND s.session_id = $2 AND t.tenant = $1 AND t.session_id = $2 AND t.finished_at < $3 AND t.seq < s.turn_seq
    RETURNING t.seq, t.turn_id),
m AS (DELETE FROM messages m USING t WHERE m.tenant = $1 AND m.session_id = $2 AND m.turn_seq = t.seq RETURNING 1),
a AS (DELETE FROM turn_aliases a USING t WHERE a.tenant = $1 AND a.session_id = $2 AND a.turn_id = t.turn_id),
e AS (DELETE FROM session_events WHERE tenant = $1 AND session_id = $2 AND at < $3),
s AS (
    UPDATE sessions SET message_count = message_count - (SELECT count(*) FROM m)
    WHERE tenant = $1 AND session_id = $2 AND EXISTS (SELECT 1 FROM t))
SELECT count(*) AS n FROM t
"""

_ENDED_BATCH = "NOT EXISTS (SELECT 1 FROM batches b WHERE b.tenant = k.tenant AND b.batch_id = k.batch_id AND b.open > 0)"
ERASE_RECORDS = (
    f"""
DELETE FROM tasks WHERE (tenant, task_id) IN (
    SELECT tenant, task_id FROM tasks k WHERE finished_at < $1 AND {_ENDED_BATCH} LIMIT $2) RETURNING 1
""",
    """
DELETE FROM batches WHERE (tenant, batch_id) IN (
    SELECT tenant, batch_id FROM batches k WHERE finished_at < $1
        AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.tenant = k.tenant AND t.batch_id = k.batch_id) LIMIT $2) RETURNING 1
""",
    """
DELETE FROM deliveries WHERE (tenant, delivery_id) IN (
    SELECT tenant, delivery_id FROM deliveries WHERE finished_at < $1 LIMIT $2) RETURNING 1
""",
    """
DELETE FROM webhooks WHERE (tenant, webhook_id) IN (
    SELECT tenant, webhook_id FROM webhooks w WHERE kind = 'request' AND created_at < $1
        AND NOT EXISTS (SELECT 1 FROM tasks x WHERE x.tenant = w.tenant AND x.webhook_id = w.webhook_id)
        AND NOT EXISTS (SELECT 1 FROM batches x WHERE x.tenant = w.tenant AND x.webhook_id = w.webhook_id)
        AND NOT EXISTS (SELECT 1 FROM schedules x WHERE x.tenant = w.tenant AND x.webhook_id = w.webhook_id)
        AND NOT EXISTS (SELECT 1 FROM deliveries x WHERE x.tenant = w.tenant AND x.webhook_id = w.webhook_id)
    LIMIT $2) RETURNING 1
""",
    """
DELETE FROM llm_calls WHERE (tenant, call_id) IN (
    SELECT tenant, call_id FROM llm_calls WHERE began < $1 ORDER BY began LIMIT $2) RETURNING 1
""",
)

SIZES = """
SELECT relname AS name, GREATEST(reltuples, 0)::bigint AS rows, pg_total_relation_size(c.oid) AS bytes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind = 'r' ORDER BY relname
"""


class PostgresUpkeep:
    """UpkeepStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def begin(self, owner: str, *, every_seconds: float, lease_seconds: float) -> Progress | None:
        """Takes the purge, if it is due."""
        row = await self._database.fetchrow(BEGIN, NAME, owner, lease_seconds, every_seconds, to_json(Progress().as_json()))
        return Progress.of_json(from_json(row["progress"])) if row else None

    async def save(self, owner: str, progress: Progress, *, lease_seconds: float, finished: bool) -> bool:
        """Notes how far it has come."""
        return await self._database.fetchrow(SAVE, NAME, owner, to_json(progress.as_json()), lease_seconds, finished) is not None

    async def last(self) -> Purged | None:
        """The last purge."""
        row = await self._database.fetchrow(LAST, NAME)
        return Purged(Progress.of_json(from_json(row["progress"])), row["started_at"], row["finished_at"]) if row else None

    async def page(self, after: Place, *, before: float, limit: int) -> Page:
        """The next sessions."""
        return page_of(await self._database.fetch(PAGE, *after, limit), before, limit)

    async def erase_turns(self, place: Place, *, before: float) -> int:
        """Erases old turns of a session."""
        row = await self._database.fetchrow(ERASE_TURNS, *place, before)
        return int(row["n"])

    async def erase_records(self, *, before: float, limit: int) -> int:
        """Erases what is over and told."""
        erased = 0
        for statement in ERASE_RECORDS:
            rows: list[Any] = await self._database.fetch(statement, before, limit)
            erased += len(rows)
        return erased

    async def sizes(self) -> Sizes:
        """Rows and bytes of every table, as the statistics know them."""
        rows = await self._database.fetch(SIZES)
        return Sizes({r["name"]: r["rows"] for r in rows}, {r["name"]: r["bytes"] for r in rows})
