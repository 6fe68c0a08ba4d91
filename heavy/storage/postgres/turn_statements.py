"""The SQL of a turn's life on PostgreSQL. Each statement is a whole step: what it writes to several tables is one commit.

Locks are taken in one order everywhere, turn, session, timers, so that no two steps wait for each other.
"""

from __future__ import annotations

from heavy.storage.postgres.outbox import messages_to_webhooks

GET = "SELECT * FROM turns WHERE tenant = $1 AND turn_id = $2"

_NEW_TURN = """
t AS (
    INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, config_hash, request, plan,
        created_at, started_at, asked, merges)
    SELECT $1, $2, turn_seq, $3, $4, CASE WHEN active = 1 THEN 'running' ELSE 'waiting' END, CASE WHEN active = 1 THEN 1 ELSE 0 END,
        $7, updated_at + $8, $6, $9, $10, updated_at, CASE WHEN active = 1 THEN updated_at END, $12, $13 = 'merge'
    FROM s),
m AS (INSERT INTO messages SELECT $1, $2, turn_seq, 0, $3, $11, updated_at FROM s WHERE $12 = 1)
SELECT * FROM s
"""

# $1 tenant, $2 session, $3 turn, $4 agent, $5 user, $6 config hash, $7 owner, $8 lease, $9 request, $10 plan, $11 message 0, $12 asked,
# $13 what to do when the session is busy
ACCEPT = f"""
WITH clock AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS now),
s AS (
    INSERT INTO sessions AS old (tenant, session_id, agent_id, user_id, config_hash, turn_seq, active, message_count,
        created_at, updated_at)
    SELECT $1, $2, $4, $5, $6, 1, 1, $12::smallint, now, now FROM clock
    WHERE NOT EXISTS (SELECT 1 FROM turns WHERE tenant = $1 AND turn_id = $3)
    ON CONFLICT (tenant, session_id) DO UPDATE SET
        turn_seq = old.turn_seq + 1, active = old.active + 1, message_count = old.message_count + excluded.message_count,
        user_id = COALESCE(old.user_id, excluded.user_id), updated_at = excluded.updated_at
    WHERE old.agent_id = excluded.agent_id AND ($13::text <> 'reject' OR old.active = 0)
    RETURNING *),
{_NEW_TURN}"""

# As ACCEPT, then $14: the turn that must be the session's last one. The condition is read under the lock on the session's row.
FOLLOW = f"""
WITH clock AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS now),
s AS (
    UPDATE sessions SET turn_seq = turn_seq + 1, active = 1, message_count = message_count + $12::smallint,
        user_id = COALESCE(user_id, $5), updated_at = now
    FROM clock WHERE tenant = $1 AND session_id = $2 AND agent_id = $4 AND turn_seq = $14 AND active = 0
        AND NOT EXISTS (SELECT 1 FROM turns WHERE tenant = $1 AND turn_id = $3)
    RETURNING sessions.*),
{_NEW_TURN}"""

# The last turn of a session, if it is active. Both rows are locked, so that it is not claimed meanwhile. Behind what was answered since (by
# a rule, or by a human) nothing becomes part of an earlier turn: its sender has read that answer.
MERGEABLE = """
SELECT t.* FROM turns t JOIN sessions s USING (tenant, session_id)
WHERE t.tenant = $1 AND t.session_id = $2 AND t.state IN ('waiting', 'running') AND t.agent_id = $3
    AND t.seq = s.turn_seq
FOR UPDATE OF t, s
"""

# $1 tenant, $2 session, $3 turn, $4 alias, $5 request, $6 plan, $7 message 0, $8 fingerprint
MERGE = """
WITH t AS (UPDATE turns SET request = $5, plan = $6 WHERE tenant = $1 AND turn_id = $3 RETURNING turns.*),
a AS (INSERT INTO turn_aliases VALUES ($1, $2, $4, $3, $8)),
m AS (UPDATE messages m SET content = $7 FROM t WHERE m.tenant = $1 AND m.session_id = $2 AND m.turn_seq = t.seq AND m.idx = 0)
SELECT * FROM t
"""

ALIAS = """
SELECT t.* FROM turn_aliases a JOIN turns t USING (tenant, turn_id) WHERE a.tenant = $1 AND a.session_id = $2 AND a.alias = $3
"""

NAME = "INSERT INTO turn_aliases VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"

KNOWN = """
SELECT t.*, NULL AS fingerprint, false AS alias FROM turns t WHERE t.tenant = $1 AND t.turn_id = ANY($3::text[])
UNION ALL
SELECT t.*, a.fingerprint, true FROM turn_aliases a JOIN turns t USING (tenant, turn_id)
WHERE a.tenant = $1 AND a.session_id = $2 AND a.alias = ANY($3::text[])
LIMIT 1
"""

# $1 seconds, $2 most. A request is JSON of ours: in it a user's own quotation marks are escaped.
KEYED = """
SELECT tenant, turn_id, request FROM turns
WHERE request LIKE '%"fingerprint":%' AND created_at > extract(epoch FROM now())::float8 - $1
ORDER BY created_at DESC LIMIT $2
"""

# A waiting turn's time has come when no earlier one is active and no other one runs: a turn that was resumed may be earlier than that.
_ITS_TIME = """NOT EXISTS (
    SELECT 1 FROM turns e WHERE e.tenant = t.tenant AND e.session_id = t.session_id AND e.state IN ('waiting', 'running')
        AND (e.seq < t.seq OR e.state = 'running'))"""

# Before CLAIM, in the same transaction: with the session locked, the snapshot of CLAIM shows every turn that was claimed or resumed.
CLAIM_LOCK = """
SELECT 1 FROM turns t JOIN sessions s USING (tenant, session_id)
WHERE t.tenant = $1 AND t.turn_id = $2 AND t.state = 'waiting' FOR UPDATE OF t, s
"""

CLAIM = f"""
UPDATE turns t SET state = 'running', attempt = attempt + 1, owner = $3,
    lease_until = extract(epoch FROM now())::float8 + $4, started_at = COALESCE(started_at, extract(epoch FROM now())::float8)
WHERE tenant = $1 AND turn_id = $2 AND state = 'waiting' AND {_ITS_TIME}
RETURNING *
"""

# The two steps of taking over, as of claiming. What another transaction holds is left for the next look.
TAKE_OVER_LOCK = f"""
SELECT t.tenant, t.session_id, t.seq FROM turns t JOIN sessions s USING (tenant, session_id)
WHERE t.state IN ('waiting', 'running') AND t.lease_until < extract(epoch FROM now())::float8 AND (t.state = 'running' OR {_ITS_TIME})
ORDER BY t.lease_until LIMIT $1 FOR UPDATE OF t, s SKIP LOCKED
"""

TAKE_OVER = f"""
UPDATE turns t SET state = 'running', attempt = attempt + 1, owner = $1, lease_until = extract(epoch FROM now())::float8 + $2,
    started_at = COALESCE(started_at, extract(epoch FROM now())::float8)
FROM unnest($3::text[], $4::text[], $5::bigint[]) AS f (tenant, session_id, seq)
WHERE t.tenant = f.tenant AND t.session_id = f.session_id AND t.seq = f.seq AND (t.state = 'running' OR {_ITS_TIME})
RETURNING t.*
"""

# A turn that is just being written is passed over: its owner lives, and a renewal that waited for it would hold up all others. It counts
# as held, as it does in the snapshot.
RENEW = """
WITH free AS (
    SELECT tenant, session_id, seq FROM turns
    WHERE owner = $1 AND turn_id = ANY($2::text[]) AND state IN ('waiting', 'running') FOR UPDATE SKIP LOCKED),
renewed AS (
    UPDATE turns t SET lease_until = extract(epoch FROM now())::float8 + $3
    FROM free f WHERE t.tenant = f.tenant AND t.session_id = f.session_id AND t.seq = f.seq)
SELECT turn_id FROM turns WHERE owner = $1 AND turn_id = ANY($2::text[]) AND state IN ('waiting', 'running')
"""

RELEASE = "UPDATE turns SET lease_until = 0 WHERE owner = $1 AND turn_id = ANY($2::text[]) AND state IN ('waiting', 'running')"

CANCEL_REQUESTS = "SELECT turn_id, cancel_reason FROM turns WHERE owner = $1 AND state = 'running' AND cancel_requested"

BUSY = """
SELECT * FROM turns WHERE tenant = $1 AND session_id = $2 AND state IN ('waiting', 'running') ORDER BY state = 'running' DESC, seq LIMIT 1
"""

# $1 tenant, $2 turn id, $3 attempt, $4-$8 usage, $9 first index, $10 messages
STEP = """
WITH t AS (
    UPDATE turns SET llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8,
        decision = COALESCE($11, decision)
    WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq),
m AS (
    INSERT INTO messages SELECT $1, t.session_id, t.seq, $9 + i - 1, $2, content, extract(epoch FROM now())::float8
    FROM t, unnest($10::text[]) WITH ORDINALITY AS new (content, i) ON CONFLICT DO NOTHING)
SELECT 1 FROM t
"""

_MESSAGES = """
m AS (
    INSERT INTO messages SELECT $1, t.session_id, t.seq, $9 + i - 1, $2, content, now
    FROM clock, t, unnest($10::text[]) WITH ORDINALITY AS new (content, i) ON CONFLICT DO NOTHING)"""


def append_events(first: int) -> str:
    """The CTE `e`: events (types at parameter `first`, data behind it) of the session `s`, whose event_seq counts them already; and `d`,
    their messages to webhooks."""
    return f"""
e AS (
    INSERT INTO session_events SELECT s.tenant, s.session_id, s.event_seq - cardinality(${first}::text[]) + i, type, data, s.updated_at
    FROM s, unnest(${first}::text[], ${first + 1}::text[]) WITH ORDINALITY AS new (type, data, i)
    RETURNING *),
{messages_to_webhooks("e").strip()}"""


# A turn that was resumed may end after a later one: then the later one's timer stays.
ARM_CONFLICT = """ON CONFLICT (tenant, session_id, kind) DO UPDATE SET agent_id = excluded.agent_id, timer_id = excluded.timer_id,
        position = excluded.position, seq = excluded.seq, due_at = excluded.due_at, next_at = excluded.next_at
    WHERE timers.seq <= excluded.seq"""


def _finish(event_seq: str, more: str) -> str:
    """A turn's end: its row, its messages, its session, and what else there is."""
    return f"""
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET state = $11, reply = $12, error = $13, finished_at = now,
        llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq, asked),
{_MESSAGES.strip()},
s AS (
    UPDATE sessions s SET active = active - 1, status = COALESCE($14, status),
        current_skill = CASE WHEN $14 IS NULL THEN current_skill ELSE $15 END, updated_at = now,
        transferred_at = CASE WHEN COALESCE($14, status) = 'transferred' THEN COALESCE(transferred_at, now) END,
        greeting = COALESCE(NULLIF($16, ''), greeting), config_hash = COALESCE(NULLIF($17, ''), config_hash),
        profile = COALESCE($18, profile), handoff = COALESCE($19, handoff), event_seq = {event_seq},
        message_count = message_count + $9 - t.asked + cardinality($10::text[]),
        llm_calls = llm_calls + $4, input_tokens = input_tokens + $5, cached_tokens = cached_tokens + $6,
        output_tokens = output_tokens + $7, cost_usd = cost_usd + $8
    FROM clock, t WHERE s.tenant = $1 AND s.session_id = (SELECT session_id FROM t) RETURNING s.*){more}
SELECT * FROM s
"""


# As STEP, then $11 state, $12 reply, $13 error, $14 status, $15 skill, $16 greeting, $17 config hash, $18 profile, $19 hand-off.
# The usage is the whole turn's.
FINISH = _finish("event_seq", "")

# As FINISH, then $20 event types, $21 their data, $22 timer kinds, $23 ids, $24 positions, $25 delays.
FINISH_WITH_MORE = _finish(
    "event_seq + cardinality($20::text[])",
    f""",
{append_events(20).strip()},
a AS (
    INSERT INTO timers SELECT $1, s.session_id, kind, s.agent_id, timer_id, position, t.seq, now + delay, now + delay
    FROM clock, t, s, unnest($22::text[], $23::text[], $24::int[], $25::float8[]) AS new (kind, timer_id, position, delay)
    {ARM_CONFLICT})""",
)

# As STEP, then $11 approval, $12 reply, $13 event types, $14 their data
PAUSE = f"""
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET state = 'awaiting_approval', owner = NULL, lease_until = 0, approval = $11, reply = $12,
        llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8
    WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq),
{_MESSAGES.strip()},
s AS (
    UPDATE sessions s SET active = active - 1, updated_at = now, event_seq = event_seq + cardinality($13::text[])
    FROM clock, t WHERE s.tenant = $1 AND s.session_id = (SELECT session_id FROM t) RETURNING s.*),
{append_events(13).strip()}
SELECT * FROM s
"""

# As STEP, then $11 error, $12 delay
POSTPONE = f"""
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET state = 'accepted', owner = NULL, lease_until = 0, error = $11, not_before = now + $12, tries = tries + 1,
        llm_calls = $4, input_tokens = $5, cached_tokens = $6, output_tokens = $7, cost_usd = $8
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND attempt = $3 AND state = 'running' RETURNING session_id, seq),
{_MESSAGES.strip()},
s AS (
    UPDATE sessions s SET active = active - 1, updated_at = now
    FROM clock, t WHERE s.tenant = $1 AND s.session_id = (SELECT session_id FROM t) RETURNING s.*)
SELECT * FROM s
"""

# $1 tenant, $2 turn id, $3 owner, $4 lease. A lead of a moment is granted: whoever asks has looked at its own clock.
REOPEN = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET state = 'waiting', owner = $3, lease_until = now + $4
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND state = 'accepted' AND not_before <= now + 1 RETURNING turns.*)
UPDATE sessions s SET active = active + 1, updated_at = now
FROM clock, t WHERE s.tenant = $1 AND s.session_id = (SELECT session_id FROM t) RETURNING s.*
"""
REOPENED = """
SELECT s.* FROM sessions s JOIN turns t USING (tenant, session_id)
WHERE t.tenant = $1 AND t.turn_id = $2 AND t.owner = $3 AND t.state = 'waiting'
"""

AWAITING = "SELECT * FROM turns WHERE tenant = $1 AND session_id = $2 AND state = 'awaiting_approval' ORDER BY seq"

# $1 tenant, $2 turn id, $3 approval before, $4 approval, $5 resume, $6 owner, $7 lease, $8 event types, $9 their data
DECIDE = f"""
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET approval = $4, state = CASE WHEN $5::bool THEN 'waiting' ELSE state END, owner = CASE WHEN $5 THEN $6 END,
        lease_until = CASE WHEN $5 THEN now + $7 ELSE 0 END
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND state = 'awaiting_approval' AND approval = $3 RETURNING turns.*),
s AS (
    UPDATE sessions s SET active = active + $5::int, updated_at = now, event_seq = event_seq + cardinality($8::text[])
    FROM clock, t WHERE s.tenant = $1 AND s.session_id = (SELECT session_id FROM t) RETURNING s.*),
{append_events(8).strip()}
SELECT * FROM t
"""

# Has this been done? Asked when a connection broke, maybe behind the commit.
FINISHED = """
SELECT s.* FROM sessions s JOIN turns t USING (tenant, session_id)
WHERE t.tenant = $1 AND t.turn_id = $2 AND t.attempt = $3 AND t.state = $4
"""
CLAIMED = "SELECT * FROM turns WHERE tenant = $1 AND turn_id = $2 AND owner = $3 AND state = 'running'"
DECIDED = "SELECT * FROM turns WHERE tenant = $1 AND turn_id = $2 AND approval = $3"

# What is accepted or awaits an approval has no owner and is not counted as active. What the turn has cost and written is its session's.
CANCEL = """
WITH clock AS (SELECT extract(epoch FROM now())::float8 AS now),
t AS (
    UPDATE turns SET cancel_requested = true, cancel_reason = COALESCE(cancel_reason, $4),
        reply = CASE WHEN state = 'running' THEN reply ELSE $3 END, finished_at = CASE WHEN state <> 'running' THEN now END,
        state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END
    FROM clock WHERE tenant = $1 AND turn_id = $2 AND state IN ('accepted', 'waiting', 'running', 'awaiting_approval')
    RETURNING turns.*),
s AS (
    UPDATE sessions s SET active = active - CASE WHEN t.owner IS NULL THEN 0 ELSE 1 END, updated_at = now,
        message_count = message_count - t.asked + (SELECT count(*) FROM messages m
            WHERE m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq),
        llm_calls = s.llm_calls + t.llm_calls, input_tokens = s.input_tokens + t.input_tokens,
        cached_tokens = s.cached_tokens + t.cached_tokens, output_tokens = s.output_tokens + t.output_tokens,
        cost_usd = s.cost_usd + t.cost_usd
    FROM clock, t WHERE t.state = 'cancelled' AND s.tenant = $1 AND s.session_id = (SELECT session_id FROM t))
SELECT * FROM t
"""

TURN_MESSAGES = """
SELECT m.* FROM messages m JOIN turns t ON m.tenant = t.tenant AND m.session_id = t.session_id AND m.turn_seq = t.seq
WHERE t.tenant = $1 AND t.turn_id = $2 ORDER BY m.idx
"""
