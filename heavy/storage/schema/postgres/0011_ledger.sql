-- The ledger of LLM calls (heavy.llm.stores). Times are Unix seconds, money is in billionths of a US dollar.

CREATE TABLE llm_calls (
    tenant              text             NOT NULL,
    call_id             text             NOT NULL,
    agent_id            text,
    skill               text,
    session_id          text,
    turn_id             text,
    key_id              text,
    purpose             text             NOT NULL,
    alias               text             NOT NULL,
    target              text             NOT NULL,
    model               text             NOT NULL,
    outcome             text             NOT NULL,
    began               double precision NOT NULL,
    seconds             double precision NOT NULL,
    first_token_seconds double precision,
    input_tokens        bigint           NOT NULL,
    cached_tokens       bigint           NOT NULL,
    cache_write_tokens  bigint           NOT NULL,
    output_tokens       bigint           NOT NULL,
    cost_nano           bigint           NOT NULL,
    estimated           boolean          NOT NULL,
    streamed            boolean          NOT NULL,
    cached_reply        boolean          NOT NULL,
    PRIMARY KEY (tenant, call_id)
);

CREATE INDEX llm_calls_of_tenant ON llm_calls (tenant, began, call_id);
CREATE INDEX llm_calls_by_time ON llm_calls (began, call_id);
CREATE INDEX llm_calls_of_session ON llm_calls (tenant, session_id) WHERE session_id IS NOT NULL;

-- Sums by UTC day, kept by the statement that writes the lines; they stay when the lines are purged. '' stands for none.
CREATE TABLE llm_days (
    tenant             text   NOT NULL,
    day                text   NOT NULL,
    agent_id           text   NOT NULL,
    skill              text   NOT NULL,
    key_id             text   NOT NULL,
    model              text   NOT NULL,
    target             text   NOT NULL,
    purpose            text   NOT NULL,
    calls              bigint NOT NULL,
    failed             bigint NOT NULL,
    estimated          bigint NOT NULL,
    input_tokens       bigint NOT NULL,
    cached_tokens      bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    cost_nano          bigint NOT NULL,
    PRIMARY KEY (tenant, day, agent_id, skill, key_id, model, target, purpose)
);

CREATE INDEX llm_days_by_day ON llm_days (day);

-- Budgets are counted by the ledger now, and keys may have limits of their own: a JSON object of those that are set.
DROP INDEX turns_spent;
ALTER TABLE api_keys ADD COLUMN limits text NOT NULL DEFAULT '{}';
