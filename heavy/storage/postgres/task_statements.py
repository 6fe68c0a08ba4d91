"""The SQL of a task's life on PostgreSQL. Each statement is a whole step: what it writes to several tables is one commit.

Locks are taken in one order, task, batch, session; `turn_statements` has turn, session, timers.
"""

from __future__ import annotations

from heavy.storage.postgres.outbox import messages_to_webhooks
from heavy.storage.task_rows import VIEW

_NOW = "extract(epoch FROM now())::float8"

# What webhooks are told of the batches in the CTE `b` that are finished with this statement.
_FINISHED = """
    SELECT tenant, NULL::text AS session_id, 'batch.completed' AS type,
        json_build_object('batch_id', batch_id, 'total', total, 'rejected', rejected)::text AS data, finished_at AS at,
        webhook_id, webhook_events
    FROM b WHERE finished_at IS NOT NULL"""

GET = f"{VIEW} WHERE t.tenant = $1 AND t.task_id = $2"

# Arrays of NEW_COLUMNS as $1 … $18; a task is due at its time, or after its delay, and never before now.
_TYPES = ("text",) * 8 + ("float8", "float8", "int", "text", "int") + ("text",) * 5
_ARRAYS = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(_TYPES, 1))


def insert(source: str) -> str:
    """An insert of the rows of `source`, which has NEW_COLUMNS. What is there already stays as it is."""
    return f"""
    INSERT INTO tasks (tenant, task_id, session_id, agent_id, lane, status, request, error, run_at, max_attempts, batch_id, position,
        schedule_id, retry_of, webhook_id, webhook_events, fingerprint, created_at, finished_at)
    SELECT tenant, task_id, session_id, agent_id, lane, status, request, error, GREATEST(COALESCE(run_at, {_NOW} + delay), {_NOW}),
        max_attempts, batch_id, position, schedule_id, retry_of, webhook_id, webhook_events, fingerprint, {_NOW},
        CASE WHEN status = 'failure' THEN {_NOW} END
    FROM {source} ON CONFLICT DO NOTHING RETURNING *"""


NEW = f"""unnest({_ARRAYS}) AS new (tenant, task_id, session_id, agent_id, lane, status, request, error, run_at, delay, max_attempts,
        batch_id, position, schedule_id, retry_of, webhook_id, webhook_events, fingerprint)"""

SUBMIT = insert(NEW)

# As SUBMIT, then $19 tenant, $20 batch, $21 webhook, $22 its events, $23 fingerprint. Nothing is written where the batch is there already.
SUBMIT_BATCH = f"""
WITH new AS (SELECT * FROM {NEW}),
b AS (
    INSERT INTO batches (tenant, batch_id, total, rejected, open, webhook_id, webhook_events, fingerprint, created_at, finished_at)
    SELECT $19::text, $20::text, count(*), count(error), count(*) - count(error), $21::text, $22::text, $23::text, {_NOW},
        CASE WHEN count(*) = count(error) THEN {_NOW} END
    FROM new ON CONFLICT DO NOTHING RETURNING *),
t AS ({insert("(SELECT new.* FROM new, b) AS new")}),
told AS ({_FINISHED}),
{messages_to_webhooks("told", own=True).strip()}
SELECT * FROM b
"""

BATCH = "SELECT * FROM batches WHERE tenant = $1 AND batch_id = $2"
COUNTS = "SELECT status, count(*) AS n FROM tasks WHERE tenant = $1 AND batch_id = $2 GROUP BY status"
ITEMS = f"{VIEW} WHERE t.tenant = $1 AND t.batch_id = $2 AND t.position > $3 ORDER BY t.position LIMIT $4"

# How long the line is costs nothing: the tenants that wait are found by jumping through the index, then the first few tasks of each.
# The first of each session in that window, unless a turn of the session is active or another task of it runs, are ranked behind those
# that their tenant has running. What another caller has locked is passed over; what it has picked meanwhile fails the last condition.
# $1 lane, $2 owner, $3 lease, $4 limit, $5 depth
PICK = f"""
WITH RECURSIVE waiting AS (
    (SELECT tenant FROM tasks WHERE lane = $1 AND status = 'pending' ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT t.tenant FROM tasks t WHERE t.lane = $1 AND t.status = 'pending' AND t.tenant > w.tenant ORDER BY t.tenant LIMIT 1)
    FROM waiting w WHERE w.tenant IS NOT NULL),
ranked AS (
    SELECT d.tenant, d.task_id, d.run_at, busy.n + row_number() OVER (PARTITION BY d.tenant ORDER BY d.run_at, d.task_id) AS place
    FROM waiting w
    CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM tasks r WHERE r.tenant = w.tenant AND r.lane = $1 AND r.status = 'running' AND r.owner IS NOT NULL) busy
    CROSS JOIN LATERAL (
        SELECT first.*, row_number() OVER (PARTITION BY session_id ORDER BY run_at, task_id) AS in_session
        FROM (
            SELECT tenant, task_id, session_id, run_at FROM tasks
            WHERE lane = $1 AND tenant = w.tenant AND status = 'pending' AND run_at <= {_NOW}
            ORDER BY run_at, task_id LIMIT $5) first) d
    WHERE d.in_session = 1
        AND NOT EXISTS (
            SELECT 1 FROM turns u
            WHERE u.tenant = d.tenant AND u.session_id = d.session_id AND u.state IN ('waiting', 'running'))
        AND NOT EXISTS (
            SELECT 1 FROM tasks r
            WHERE r.tenant = d.tenant AND r.session_id = d.session_id AND r.status = 'running' AND r.owner IS NOT NULL)),
found AS (
    SELECT t.* FROM (SELECT * FROM ranked ORDER BY place, run_at) r CROSS JOIN LATERAL (
        SELECT t.tenant, t.task_id FROM tasks t
        WHERE t.tenant = r.tenant AND t.task_id = r.task_id AND t.status = 'pending' FOR UPDATE SKIP LOCKED) t
    LIMIT $4)
UPDATE tasks t SET status = 'running', owner = $2, lease_until = {_NOW} + $3, attempts = attempts + 1,
    started_at = COALESCE(started_at, {_NOW})
FROM found f WHERE t.tenant = f.tenant AND t.task_id = f.task_id RETURNING t.*
"""

# One whose end was asked for is not given back: the sweep ends it. $1 tenant, $2 task, $3 owner, $4 lease as it was picked, $5 delay
RELEASE = f"""
UPDATE tasks SET status = 'pending', owner = NULL, lease_until = 0, attempts = attempts - 1,
    run_at = CASE WHEN $5::float8 > 0 THEN GREATEST(run_at, {_NOW} + $5) ELSE run_at END
WHERE tenant = $1 AND task_id = $2 AND status = 'running' AND owner IS NOT DISTINCT FROM $3 AND lease_until = $4
    AND NOT cancel_requested RETURNING 1
"""

POSTPONE = """
UPDATE tasks SET status = 'pending', owner = NULL, lease_until = 0, run_at = $3
WHERE tenant = $1 AND task_id = $2 AND status = 'running' AND NOT cancel_requested RETURNING 1
"""

PARK = "UPDATE tasks SET owner = NULL, lease_until = 0 WHERE tenant = $1 AND task_id = $2 AND status = 'running' RETURNING 1"

REQUEST_CANCEL = "UPDATE tasks SET cancel_requested = true WHERE tenant = $1 AND task_id = $2 AND status = 'running'"

# $1 tenant, $2 ids, $3 statuses, $4 errors, $5 event types, $6 their data, $7 which statuses may end
END = f"""
WITH clock AS (SELECT {_NOW} AS now),
input AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS i (task_id, status, error, type, data)),
t AS (
    UPDATE tasks t SET status = i.status, error = i.error, finished_at = now, owner = NULL, lease_until = 0
    FROM clock, input i WHERE t.tenant = $1 AND t.task_id = i.task_id AND t.status = ANY ($7::text[])
    RETURNING t.*, i.type, i.data),
b AS (
    UPDATE batches b SET open = b.open - ended.n, finished_at = CASE WHEN b.open = ended.n THEN now END
    FROM clock, (SELECT batch_id, count(*)::int AS n FROM t WHERE batch_id IS NOT NULL GROUP BY batch_id) ended
    WHERE b.tenant = $1 AND b.batch_id = ended.batch_id RETURNING b.*),
s AS (
    UPDATE sessions s SET event_seq = s.event_seq + ended.n, updated_at = now
    FROM clock, (SELECT session_id, count(*) AS n FROM t GROUP BY session_id) ended
    WHERE s.tenant = $1 AND s.session_id = ended.session_id RETURNING s.tenant, s.session_id, s.event_seq, s.updated_at, ended.n),
e AS (
    INSERT INTO session_events
    SELECT s.tenant, s.session_id, s.event_seq - s.n + row_number() OVER (PARTITION BY s.session_id ORDER BY t.created_at, t.task_id),
        t.type, t.data, s.updated_at
    FROM t JOIN s ON s.session_id = t.session_id),
told AS (
    SELECT tenant, session_id, type, data, finished_at AS at, webhook_id, webhook_events FROM t
    UNION ALL {_FINISHED.strip()}),
{messages_to_webhooks("told", own=True).strip()}
SELECT * FROM t
"""

# Has this been done? Asked when a connection broke, maybe behind the commit.
ENDED = "SELECT * FROM tasks WHERE tenant = $1 AND task_id = ANY ($2::text[]) AND status = ANY ($3::text[])"

UNSETTLED = f"""
{VIEW} WHERE t.status = 'running' AND (
    t.cancel_requested AND u.state IS NOT NULL OR t.lease_until < {_NOW} AND (
        u.state IS NULL OR u.state IN ('accepted', 'done', 'failed', 'cancelled') OR u.state = 'awaiting_approval' AND t.owner IS NOT NULL))
ORDER BY t.lease_until LIMIT $1
"""

# The waiting are counted up to $1.
STATS = f"""
WITH RECURSIVE waiting AS (
    (SELECT lane, tenant FROM tasks WHERE status = 'pending' ORDER BY lane, tenant LIMIT 1)
    UNION ALL
    SELECT n.lane, n.tenant FROM waiting w CROSS JOIN LATERAL (
        SELECT t.lane, t.tenant FROM tasks t WHERE t.status = 'pending' AND (t.lane, t.tenant) > (w.lane, w.tenant)
        ORDER BY t.lane, t.tenant LIMIT 1) n),
oldest AS (
    SELECT w.lane, min(f.run_at) AS run_at FROM waiting w CROSS JOIN LATERAL (
        SELECT t.run_at FROM tasks t WHERE t.lane = w.lane AND t.tenant = w.tenant AND t.status = 'pending' ORDER BY t.run_at LIMIT 1) f
    GROUP BY w.lane)
SELECT lane,
    (SELECT count(*) FROM (SELECT 1 FROM tasks t WHERE t.lane = l.lane AND t.status = 'pending' AND t.run_at <= {_NOW} LIMIT $1) c)
        AS waiting,
    (SELECT count(*) FROM tasks t WHERE t.lane = l.lane AND t.status = 'running' AND t.owner IS NOT NULL) AS running,
    GREATEST(0, COALESCE({_NOW} - (SELECT run_at FROM oldest o WHERE o.lane = l.lane), 0)) AS oldest
FROM (VALUES ('task'), ('batch')) l (lane)
"""

# A session is erased. Its tasks go with it; items of a batch stay as an empty place in it, cancelled where they had not ended.
ERASE = "DELETE FROM tasks WHERE tenant = $1 AND session_id = $2 AND batch_id IS NULL"
ERASE_ITEMS = f"""
WITH clock AS (SELECT {_NOW} AS now),
t AS (
    UPDATE tasks SET status = 'cancelled', finished_at = now, owner = NULL, lease_until = 0
    FROM clock WHERE tenant = $1 AND session_id = $2 AND status IN ('pending', 'running') RETURNING tasks.*),
b AS (
    UPDATE batches b SET open = b.open - ended.n, finished_at = CASE WHEN b.open = ended.n THEN now END
    FROM clock, (SELECT batch_id, count(*)::int AS n FROM t GROUP BY batch_id) ended
    WHERE b.tenant = $1 AND b.batch_id = ended.batch_id RETURNING b.*),
told AS ({_FINISHED}),
{messages_to_webhooks("told", own=True).strip()}
SELECT count(*) FROM b
"""
EMPTY_ITEMS = "UPDATE tasks SET request = '{}', error = NULL WHERE tenant = $1 AND session_id = $2"
