"""The SQL of a task's life on SQLite. What belongs together runs in one transaction of the writer (tasks.py)."""

from __future__ import annotations

from heavy.storage.task_rows import VIEW

GET = f"{VIEW} WHERE t.tenant = ? AND t.task_id = ?"

# The values of NEW_COLUMNS as ?1 … ?18, then ?19 now; a task is due at its time, or after its delay, and never before now.
INSERT = """
INSERT INTO tasks (tenant, task_id, session_id, agent_id, lane, status, request, error, run_at, max_attempts, batch_id, position,
    schedule_id, retry_of, webhook_id, webhook_events, fingerprint, created_at, finished_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, max(COALESCE(?9, ?19 + ?10), ?19), ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
    CASE WHEN ?6 = 'failure' THEN ?19 END)
ON CONFLICT DO NOTHING
"""

INSERT_BATCH = """
INSERT INTO batches (tenant, batch_id, total, rejected, open, webhook_id, webhook_events, fingerprint, created_at, finished_at)
VALUES (?1, ?2, ?3, ?4, ?3 - ?4, ?5, ?6, ?7, ?8, CASE WHEN ?3 = ?4 THEN ?8 END) ON CONFLICT DO NOTHING RETURNING *
"""

BATCH = "SELECT * FROM batches WHERE tenant = ? AND batch_id = ?"
COUNTS = "SELECT status, count(*) AS n FROM tasks WHERE tenant = ? AND batch_id = ? GROUP BY status"
ITEMS = f"{VIEW} WHERE t.tenant = ? AND t.batch_id = ? AND t.position > ? ORDER BY t.position LIMIT ?"

# Picking: the tenants that wait, one by one through the index; what each has running; the first few of each.
NEXT_TENANT = "SELECT tenant FROM tasks WHERE lane = ? AND status = 'pending' AND tenant > ? ORDER BY tenant LIMIT 1"
RUNNING = "SELECT tenant, session_id, lane FROM tasks WHERE status = 'running' AND owner IS NOT NULL"
FIRST = """
SELECT tenant, task_id, session_id, run_at FROM tasks
WHERE lane = ? AND tenant = ? AND status = 'pending' AND run_at <= ? ORDER BY run_at, task_id LIMIT ?
"""
ACTIVE = "SELECT 1 FROM turns WHERE tenant = ? AND session_id = ? AND state IN ('waiting', 'running') LIMIT 1"
START = """
UPDATE tasks SET status = 'running', owner = ?3, lease_until = ?4 + ?5, attempts = attempts + 1, started_at = COALESCE(started_at, ?4)
WHERE tenant = ?1 AND task_id = ?2 RETURNING *
"""

# One whose end was asked for is not given back: the sweep ends it.
RELEASE = """
UPDATE tasks SET status = 'pending', owner = NULL, lease_until = 0, attempts = attempts - 1, run_at = max(run_at, ?5)
WHERE tenant = ?1 AND task_id = ?2 AND status = 'running' AND owner IS ?3 AND lease_until = ?4 AND NOT cancel_requested
"""

POSTPONE = """
UPDATE tasks SET status = 'pending', owner = NULL, lease_until = 0, run_at = ?3
WHERE tenant = ?1 AND task_id = ?2 AND status = 'running' AND NOT cancel_requested
"""

PARK = "UPDATE tasks SET owner = NULL, lease_until = 0 WHERE tenant = ? AND task_id = ? AND status = 'running'"

REQUEST_CANCEL = "UPDATE tasks SET cancel_requested = 1 WHERE tenant = ? AND task_id = ? AND status = 'running'"

STATUS = "SELECT status FROM tasks WHERE tenant = ? AND task_id = ?"

END = """
UPDATE tasks SET status = ?3, error = ?4, finished_at = ?5, owner = NULL, lease_until = 0 WHERE tenant = ?1 AND task_id = ?2 RETURNING *
"""

CLOSE_ONE = """
UPDATE batches SET open = open - 1, finished_at = CASE WHEN open = 1 THEN ?3 END WHERE tenant = ?1 AND batch_id = ?2 RETURNING *
"""

TOLD = "UPDATE sessions SET event_seq = event_seq + 1, updated_at = ?3 WHERE tenant = ?1 AND session_id = ?2 RETURNING *"

UNSETTLED = f"""
{VIEW} WHERE t.status = 'running' AND (
    t.cancel_requested AND u.state IS NOT NULL OR t.lease_until < ?1 AND (
        u.state IS NULL OR u.state IN ('accepted', 'done', 'failed', 'cancelled') OR u.state = 'awaiting_approval' AND t.owner IS NOT NULL))
ORDER BY t.lease_until LIMIT ?2
"""

# The waiting are counted up to ?3.
STATS = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM tasks WHERE lane = ?1 AND status = 'pending' AND run_at <= ?2 LIMIT ?3)) AS waiting,
    (SELECT count(*) FROM tasks WHERE lane = ?1 AND status = 'running' AND owner IS NOT NULL) AS running
"""
OLDEST = "SELECT run_at FROM tasks WHERE lane = ? AND tenant = ? AND status = 'pending' ORDER BY run_at LIMIT 1"

# A session is erased. Its tasks go with it; items of a batch stay as an empty place in it, cancelled where they had not ended.
ERASE = "DELETE FROM tasks WHERE tenant = ? AND session_id = ? AND batch_id IS NULL"
ERASE_ITEMS = """
UPDATE tasks SET status = 'cancelled', finished_at = ?3, owner = NULL, lease_until = 0
WHERE tenant = ?1 AND session_id = ?2 AND status IN ('pending', 'running') RETURNING batch_id
"""
EMPTY_ITEMS = "UPDATE tasks SET request = '{}', error = NULL WHERE tenant = ? AND session_id = ?"
