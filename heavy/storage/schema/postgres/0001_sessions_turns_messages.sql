-- Sessions, their turns and messages. Tenant and session come first in every key: that is the unit of sharding.
-- Times are Unix seconds of the database's clock. JSON is kept as text: jsonb can't hold \u0000, and nothing searches inside.

CREATE TABLE sessions (
    tenant        text             NOT NULL,
    session_id    text             NOT NULL,
    agent_id      text             NOT NULL,
    user_id       text,
    status        text             NOT NULL DEFAULT 'ready',
    current_skill text,
    config_hash   text             NOT NULL DEFAULT '',
    greeting      text             NOT NULL DEFAULT '',
    profile       text             NOT NULL DEFAULT '{}',
    turn_seq      bigint           NOT NULL,
    active        integer          NOT NULL,
    message_count bigint           NOT NULL,
    llm_calls     bigint           NOT NULL DEFAULT 0,
    input_tokens  bigint           NOT NULL DEFAULT 0,
    cached_tokens bigint           NOT NULL DEFAULT 0,
    output_tokens bigint           NOT NULL DEFAULT 0,
    cost_usd      double precision NOT NULL DEFAULT 0,
    created_at    double precision NOT NULL,
    updated_at    double precision NOT NULL,
    PRIMARY KEY (tenant, session_id)
) WITH (fillfactor = 80);

CREATE TABLE turns (
    tenant           text             NOT NULL,
    session_id       text             NOT NULL,
    seq              bigint           NOT NULL,
    turn_id          text             NOT NULL,
    agent_id         text             NOT NULL,
    state            text             NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    attempt          integer          NOT NULL DEFAULT 0,
    owner            text,
    lease_until      double precision NOT NULL DEFAULT 0,
    cancel_requested boolean          NOT NULL DEFAULT false,
    config_hash      text             NOT NULL DEFAULT '',
    request          text             NOT NULL,
    plan             text,
    reply            text,
    error            text,
    llm_calls        bigint           NOT NULL DEFAULT 0,
    input_tokens     bigint           NOT NULL DEFAULT 0,
    cached_tokens    bigint           NOT NULL DEFAULT 0,
    output_tokens    bigint           NOT NULL DEFAULT 0,
    cost_usd         double precision NOT NULL DEFAULT 0,
    created_at       double precision NOT NULL,
    started_at       double precision,
    finished_at      double precision,
    PRIMARY KEY (tenant, session_id, seq)
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX turns_by_id ON turns (tenant, turn_id);
-- Few turns are active at a time, so these stay small however long the history grows.
CREATE INDEX turns_active ON turns (tenant, session_id, seq) WHERE state IN ('waiting', 'running');
CREATE INDEX turns_owned ON turns (owner, turn_id) WHERE state IN ('waiting', 'running');

CREATE TABLE messages (
    tenant     text             NOT NULL,
    session_id text             NOT NULL,
    turn_seq   bigint           NOT NULL,
    idx        integer          NOT NULL,
    turn_id    text             NOT NULL,
    content    text             NOT NULL,
    at         double precision NOT NULL,
    PRIMARY KEY (tenant, session_id, turn_seq, idx)
);
