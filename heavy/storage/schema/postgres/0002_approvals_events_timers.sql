-- Turns that await an approval, what reaches a session outside a query, hand-offs to humans, timers.

-- `asked` is how many messages came with the turn: 1, or 0 where nobody's words begin it. `approval` and `decision` (which action was chosen) are JSON.
ALTER TABLE turns
    ADD COLUMN approval text,
    ADD COLUMN decision text,
    ADD COLUMN asked smallint NOT NULL DEFAULT 1;

-- NOT VALID: the new rule allows all that the old one did, so there is no need to read the whole table under a lock.
ALTER TABLE turns
    DROP CONSTRAINT turns_state_check,
    ADD CONSTRAINT turns_state_check
        CHECK (state IN ('waiting', 'running', 'awaiting_approval', 'done', 'failed', 'cancelled')) NOT VALID;

CREATE INDEX turns_awaiting ON turns (tenant, session_id, seq) WHERE state = 'awaiting_approval';

-- `transferred_at` is set exactly while the status is 'transferred'; `event_seq` is the id of the last event.
ALTER TABLE sessions
    ADD COLUMN handoff text NOT NULL DEFAULT '{}',
    ADD COLUMN event_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN transferred_at double precision;

UPDATE sessions SET transferred_at = updated_at WHERE status = 'transferred';

-- The condition is not on the status, which changes often: an update of an indexed column writes into every index.
CREATE INDEX sessions_transferred ON sessions (tenant, transferred_at) WHERE transferred_at IS NOT NULL;

CREATE TABLE session_events (
    tenant     text             NOT NULL,
    session_id text             NOT NULL,
    id         bigint           NOT NULL,
    type       text             NOT NULL,
    data       text             NOT NULL,
    at         double precision NOT NULL,
    PRIMARY KEY (tenant, session_id, id)
);

-- `due_at` is what the timer was armed for; `next_at` is when it is handed out next: at first the same, then the end of a hold.
CREATE TABLE timers (
    tenant     text             NOT NULL,
    session_id text             NOT NULL,
    kind       text             NOT NULL,
    agent_id   text             NOT NULL,
    timer_id   text             NOT NULL,
    position   integer          NOT NULL,
    seq        bigint           NOT NULL,
    due_at     double precision NOT NULL,
    next_at    double precision NOT NULL,
    PRIMARY KEY (tenant, session_id, kind)
);

CREATE INDEX timers_next ON timers (next_at);
