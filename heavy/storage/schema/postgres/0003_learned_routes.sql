-- Routes that heavy has learned (heavy.turns.learned_routes). JSON is kept as text, times are Unix seconds.

CREATE TABLE learned_routes (
    tenant text NOT NULL,
    agent_id text NOT NULL,
    config_hash text NOT NULL,
    digest text NOT NULL,
    message text NOT NULL,
    route text NOT NULL,
    seen bigint NOT NULL,
    witness text NOT NULL,
    state text NOT NULL CHECK (state IN ('candidate', 'active', 'blocked')),
    hits bigint NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    PRIMARY KEY (tenant, agent_id, config_hash, digest)
);

CREATE INDEX learned_routes_active ON learned_routes (agent_id, config_hash) WHERE state = 'active';
CREATE INDEX learned_routes_expiry ON learned_routes (expires_at);
