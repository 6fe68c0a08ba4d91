-- Turns that await an approval, what reaches a session outside a query, hand-offs to humans, timers.

-- A CHECK can't be altered, so the table is made again and takes the old one's rows, name and indexes.
-- `asked` is how many messages came with the turn: 1, or 0 where nobody's words begin it. `approval` and `decision` (which action was chosen) are JSON.
CREATE TABLE turns_anew (
    tenant text NOT NULL,
    session_id text NOT NULL,
    seq integer NOT NULL,
    turn_id text NOT NULL,
    agent_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'awaiting_approval', 'done', 'failed', 'cancelled')),
    attempt integer NOT NULL DEFAULT 0,
    owner text,
    lease_until real NOT NULL DEFAULT 0,
    cancel_requested integer NOT NULL DEFAULT 0,
    config_hash text NOT NULL DEFAULT '',
    request text NOT NULL,
    plan text,
    reply text,
    error text,
    llm_calls integer NOT NULL DEFAULT 0,
    input_tokens integer NOT NULL DEFAULT 0,
    cached_tokens integer NOT NULL DEFAULT 0,
    output_tokens integer NOT NULL DEFAULT 0,
    cost_usd real NOT NULL DEFAULT 0,
    created_at real NOT NULL,
    started_at real,
    finished_at real,
    approval text,
    decision text,
    asked integer NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, session_id, seq)
);

INSERT INTO turns_anew (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, cancel_requested, config_hash,
    request, plan, reply, error, llm_calls, input_tokens, cached_tokens, output_tokens, cost_usd, created_at, started_at, finished_at)
SELECT tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, cancel_requested, config_hash,
    request, plan, reply, error, llm_calls, input_tokens, cached_tokens, output_tokens, cost_usd, created_at, started_at, finished_at
FROM turns;

DROP TABLE turns;
ALTER TABLE turns_anew RENAME TO turns;

CREATE UNIQUE INDEX turns_by_id ON turns (tenant, turn_id);
CREATE INDEX turns_active ON turns (tenant, session_id, seq) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_owned ON turns (owner, turn_id) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_awaiting ON turns (tenant, session_id, seq) WHERE state = 'awaiting_approval';

-- `transferred_at` is set exactly while the status is 'transferred'; `event_seq` is the id of the last event.
ALTER TABLE sessions ADD COLUMN handoff text NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN event_seq integer NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN transferred_at real;

UPDATE sessions SET transferred_at = updated_at WHERE status = 'transferred';

CREATE INDEX sessions_transferred ON sessions (tenant, transferred_at) WHERE transferred_at IS NOT NULL;

CREATE TABLE session_events (
    tenant text NOT NULL,
    session_id text NOT NULL,
    id integer NOT NULL,
    type text NOT NULL,
    data text NOT NULL,
    at real NOT NULL,
    PRIMARY KEY (tenant, session_id, id)
);

-- `due_at` is what the timer was armed for; `next_at` is when it is handed out next: at first the same, then the end of a hold.
CREATE TABLE timers (
    tenant text NOT NULL,
    session_id text NOT NULL,
    kind text NOT NULL,
    agent_id text NOT NULL,
    timer_id text NOT NULL,
    position integer NOT NULL,
    seq integer NOT NULL,
    due_at real NOT NULL,
    next_at real NOT NULL,
    PRIMARY KEY (tenant, session_id, kind)
);

CREATE INDEX timers_next ON timers (next_at);
