-- Turns that are tried again later, that take further messages in while they wait, and that say why they were cancelled.

-- A CHECK can't be altered, so the table is made again and takes the old one's rows, name and indexes.
-- `accepted`: not active, begins (again) from `not_before` on; `tries` counts how often that was put off. `merges`: while it waits, further
-- messages may become part of it.
CREATE TABLE turns_anew (
    tenant text NOT NULL,
    session_id text NOT NULL,
    seq integer NOT NULL,
    turn_id text NOT NULL,
    agent_id text NOT NULL,
    state text NOT NULL
        CHECK (state IN ('accepted', 'waiting', 'running', 'awaiting_approval', 'done', 'failed', 'cancelled')),
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
    not_before real NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    merges integer NOT NULL DEFAULT 0,
    cancel_reason text,
    PRIMARY KEY (tenant, session_id, seq)
);

INSERT INTO turns_anew (tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, cancel_requested, config_hash,
    request, plan, reply, error, llm_calls, input_tokens, cached_tokens, output_tokens, cost_usd, created_at, started_at, finished_at,
    approval, decision, asked)
SELECT tenant, session_id, seq, turn_id, agent_id, state, attempt, owner, lease_until, cancel_requested, config_hash,
    request, plan, reply, error, llm_calls, input_tokens, cached_tokens, output_tokens, cost_usd, created_at, started_at, finished_at,
    approval, decision, asked
FROM turns;

DROP TABLE turns;
ALTER TABLE turns_anew RENAME TO turns;

CREATE UNIQUE INDEX turns_by_id ON turns (tenant, turn_id);
CREATE INDEX turns_active ON turns (tenant, session_id, seq) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_owned ON turns (owner, turn_id) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_awaiting ON turns (tenant, session_id, seq) WHERE state = 'awaiting_approval';

-- Further names of turns: ids of messages that became part of another turn, or decided on its approval. The same request again finds it.
CREATE TABLE turn_aliases (
    tenant text NOT NULL,
    session_id text NOT NULL,
    alias text NOT NULL,
    turn_id text NOT NULL,
    fingerprint text,
    PRIMARY KEY (tenant, session_id, alias)
);
