-- Sessions, their turns and messages. Tenant and session come first in every key: that is the unit of sharding.
-- Times are Unix seconds. JSON is kept as text.

CREATE TABLE sessions (
    tenant text NOT NULL,
    session_id text NOT NULL,
    agent_id text NOT NULL,
    user_id text,
    status text NOT NULL DEFAULT 'ready',
    current_skill text,
    config_hash text NOT NULL DEFAULT '',
    greeting text NOT NULL DEFAULT '',
    profile text NOT NULL DEFAULT '{}',
    turn_seq integer NOT NULL,
    active integer NOT NULL,
    message_count integer NOT NULL,
    llm_calls integer NOT NULL DEFAULT 0,
    input_tokens integer NOT NULL DEFAULT 0,
    cached_tokens integer NOT NULL DEFAULT 0,
    output_tokens integer NOT NULL DEFAULT 0,
    cost_usd real NOT NULL DEFAULT 0,
    created_at real NOT NULL,
    updated_at real NOT NULL,
    PRIMARY KEY (tenant, session_id)
);

CREATE TABLE turns (
    tenant text NOT NULL,
    session_id text NOT NULL,
    seq integer NOT NULL,
    turn_id text NOT NULL,
    agent_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
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
    PRIMARY KEY (tenant, session_id, seq)
);

CREATE UNIQUE INDEX turns_by_id ON turns (tenant, turn_id);
-- Few turns are active at a time, so these stay small however long the history grows.
CREATE INDEX turns_active ON turns (tenant, session_id, seq) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_owned ON turns (owner, turn_id) WHERE state IN ('waiting', 'running');

CREATE TABLE messages (
    tenant text NOT NULL,
    session_id text NOT NULL,
    turn_seq integer NOT NULL,
    idx integer NOT NULL,
    turn_id text NOT NULL,
    content text NOT NULL,
    at real NOT NULL,
    PRIMARY KEY (tenant, session_id, turn_seq, idx)
);
