-- Turns that are tried again later, that take further messages in while they wait, and that say why they were cancelled.

-- `accepted`: not active, begins (again) from `not_before` on; `tries` counts how often that was put off. `merges`: while it waits, further
-- messages may become part of it.
ALTER TABLE turns
    ADD COLUMN not_before double precision NOT NULL DEFAULT 0,
    ADD COLUMN tries integer NOT NULL DEFAULT 0,
    ADD COLUMN merges boolean NOT NULL DEFAULT false,
    ADD COLUMN cancel_reason text;

-- NOT VALID: the new rule allows all that the old one did, so there is no need to read the whole table under a lock.
ALTER TABLE turns
    DROP CONSTRAINT turns_state_check,
    ADD CONSTRAINT turns_state_check
        CHECK (state IN ('accepted', 'waiting', 'running', 'awaiting_approval', 'done', 'failed', 'cancelled')) NOT VALID;

-- Further names of turns: ids of messages that became part of another turn, or decided on its approval. The same request again finds it.
CREATE TABLE turn_aliases (
    tenant text NOT NULL,
    session_id text NOT NULL,
    alias text NOT NULL,
    turn_id text NOT NULL,
    fingerprint text,
    PRIMARY KEY (tenant, session_id, alias)
);
