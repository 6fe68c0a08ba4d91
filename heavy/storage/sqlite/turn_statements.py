"""The SQL of a turn's life on SQLite. What belongs together runs in one transaction of the writer (turns.py)."""

from __future__ import annotations

GET = "SELECT * FROM turns WHERE tenant = ? AND turn_id = ?"

UPSERT_SESSION = """
INSERT INTO sessions (tenant, session_id, agent_id, user_id, config_hash, turn_seq, active, message_count, created_at, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, 1, 1, ?7, ?6, ?6)
ON CONFLICT (tenant, session_id) DO UPDATE SET
    turn_seq = turn_seq + 1, active = active + 1, message_count = message_count + excluded.message_count,
    user_id = COALESCE(user_id, excluded.user_id), updated_at = excluded.updated_at
RETURNING *
"""

INSERT_TURN = """
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, config_hash, request, plan, created_at,
    started_at, asked, merges)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

LAST_ACTIVE = """
SELECT t.* FROM turns t JOIN sessions s USING (tenant, session_id)
WHERE t.tenant = ? AND t.session_id = ? AND t.state IN ('waiting', 'running') AND t.agent_id = ? AND t.seq = s.turn_seq
"""

MERGE = "UPDATE turns SET request = ?3, plan = ?4 WHERE tenant = ?1 AND turn_id = ?2 RETURNING *"

MERGE_MESSAGE = "UPDATE messages SET content = ?4 WHERE tenant = ?1 AND session_id = ?2 AND turn_seq = ?3 AND idx = 0"

NAME = "INSERT INTO turn_aliases VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

KNOWN = """
SELECT t.*, NULL AS fingerprint, 0 AS alias FROM turns t WHERE t.tenant = ?1 AND t.turn_id = ?3
UNION ALL
SELECT t.*, a.fingerprint, 1 FROM turn_aliases a JOIN turns t USING (tenant, turn_id)
WHERE a.tenant = ?1 AND a.session_id = ?2 AND a.alias = ?3
LIMIT 1
"""

# A request is JSON of ours: in it a user's own quotation marks are escaped.
KEYED = """
SELECT tenant, turn_id, request FROM turns WHERE request LIKE '%"fingerprint":%' AND created_at > ? ORDER BY created_at DESC LIMIT ?
"""

ALIAS = """
SELECT t.* FROM turn_aliases a JOIN turns t USING (tenant, turn_id) WHERE a.tenant = ? AND a.session_id = ? AND a.alias = ?
"""

# A waiting turn's time has come when no earlier one is active and no other one runs: a turn that was resumed may be earlier than that.
_ITS_TIME = """NOT EXISTS (
    SELECT 1 FROM turns e WHERE e.tenant = t.tenant AND e.session_id = t.session_id AND e.state IN ('waiting', 'running')
        AND (e.seq < t.seq OR e.state = 'running'))"""

CLAIM = f"""
UPDATE turns AS t SET state = 'running', attempt = attempt + 1, owner = ?3, lease_until = ?4, started_at = COALESCE(started_at, ?5)
WHERE tenant = ?1 AND turn_id = ?2 AND state = 'waiting' AND {_ITS_TIME}
RETURNING *
"""

LEFT = f"""
SELECT tenant, turn_id, state FROM turns t
WHERE state IN ('waiting', 'running') AND lease_until < ?1 AND (state = 'running' OR {_ITS_TIME})
ORDER BY lease_until LIMIT ?2
"""

TAKE_OVER = """
UPDATE turns SET state = 'running', attempt = attempt + 1, owner = ?3, lease_until = ?4, started_at = COALESCE(started_at, ?5)
WHERE tenant = ?1 AND turn_id = ?2 RETURNING *
"""

RENEW = "UPDATE turns SET lease_until = ?3 WHERE owner = ?1 AND turn_id = ?2 AND state IN ('waiting', 'running')"

RELEASE = "UPDATE turns SET lease_until = 0 WHERE owner = ? AND turn_id = ? AND state IN ('waiting', 'running')"

CANCEL_REQUESTS = "SELECT turn_id, cancel_reason FROM turns WHERE owner = ? AND state = 'running' AND cancel_requested"

BUSY = """
SELECT * FROM turns WHERE tenant = ? AND session_id = ? AND state IN ('waiting', 'running') ORDER BY state = 'running' DESC, seq LIMIT 1
"""

STEP = """
UPDATE turns SET llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8,
    decision = COALESCE(?9, decision)
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq
"""

FINISH_TURN = """
UPDATE turns SET state = ?9, reply = ?10, error = ?11, finished_at = ?12,
    llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq, asked
"""

FINISH_SESSION = """
UPDATE sessions SET active = active - 1, updated_at = ?5, status = COALESCE(?3, status),
    current_skill = CASE WHEN ?3 IS NULL THEN current_skill ELSE ?4 END,
    transferred_at = CASE WHEN COALESCE(?3, status) = 'transferred' THEN COALESCE(transferred_at, ?5) END,
    greeting = COALESCE(NULLIF(?6, ''), greeting), config_hash = COALESCE(NULLIF(?7, ''), config_hash), profile = COALESCE(?8, profile),
    handoff = COALESCE(?9, handoff), event_seq = event_seq + ?10,
    message_count = message_count + ?11, llm_calls = llm_calls + ?12, input_tokens = input_tokens + ?13,
    cached_tokens = cached_tokens + ?14, output_tokens = output_tokens + ?15, cost_usd = cost_usd + ?16
WHERE tenant = ?1 AND session_id = ?2 RETURNING *
"""

PAUSE = """
UPDATE turns SET state = 'awaiting_approval', owner = NULL, lease_until = 0, approval = ?9, reply = ?10,
    llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq
"""

POSTPONE = """
UPDATE turns SET state = 'accepted', owner = NULL, lease_until = 0, error = ?9, not_before = ?10, tries = tries + 1,
    llm_calls = ?4, input_tokens = ?5, cached_tokens = ?6, output_tokens = ?7, cost_usd = ?8
WHERE tenant = ?1 AND turn_id = ?2 AND attempt = ?3 AND state = 'running' RETURNING session_id, seq
"""

# A lead of a moment is granted: whoever asks has looked at its own clock.
REOPEN = """
UPDATE turns SET state = 'waiting', owner = ?3, lease_until = ?4
WHERE tenant = ?1 AND turn_id = ?2 AND state = 'accepted' AND not_before <= ?5 + 1 RETURNING *
"""

AWAITING = "SELECT * FROM turns WHERE tenant = ? AND session_id = ? AND state = 'awaiting_approval' ORDER BY seq"

DECIDE = """
UPDATE turns SET approval = ?4, state = CASE WHEN ?5 THEN 'waiting' ELSE state END, owner = CASE WHEN ?5 THEN ?6 END,
    lease_until = CASE WHEN ?5 THEN ?7 ELSE 0 END
WHERE tenant = ?1 AND turn_id = ?2 AND state = 'awaiting_approval' AND approval = ?3 RETURNING *
"""

# The session when a turn of it is paused or resumed: one active turn more or less, and events.
TOUCH = """
UPDATE sessions SET active = active + ?3, event_seq = event_seq + ?4, updated_at = ?5 WHERE tenant = ?1 AND session_id = ?2 RETURNING *
"""

CANCEL = """
UPDATE turns SET cancel_requested = 1, cancel_reason = COALESCE(cancel_reason, ?5),
    reply = CASE WHEN state = 'running' THEN reply ELSE ?3 END,
    finished_at = CASE WHEN state <> 'running' THEN ?4 END, state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END
WHERE tenant = ?1 AND turn_id = ?2 AND state IN ('accepted', 'waiting', 'running', 'awaiting_approval') RETURNING *
"""

# What is accepted or awaits an approval has no owner and is not counted as active. What the turn has cost and written is its session's.
CANCEL_SESSION = """
UPDATE sessions SET active = active - (t.owner IS NOT NULL), updated_at = ?3,
    message_count = message_count - t.asked + (SELECT count(*) FROM messages m
        WHERE m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq),
    llm_calls = sessions.llm_calls + t.llm_calls, input_tokens = sessions.input_tokens + t.input_tokens,
    cached_tokens = sessions.cached_tokens + t.cached_tokens, output_tokens = sessions.output_tokens + t.output_tokens,
    cost_usd = sessions.cost_usd + t.cost_usd
FROM turns t WHERE t.tenant = ?1 AND t.turn_id = ?2 AND sessions.tenant = t.tenant AND sessions.session_id = t.session_id
"""

TURN_MESSAGES = """
SELECT m.* FROM messages m JOIN turns t ON m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq
WHERE t.tenant = ? AND t.turn_id = ? ORDER BY m.idx
"""
