-- The purge: one row, kept while it runs and behind it. `progress` is JSON (heavy.jobs.upkeep.Progress).

CREATE TABLE purges (
    name        text PRIMARY KEY,
    owner       text NOT NULL,
    lease_until real NOT NULL,
    progress    text NOT NULL,
    started_at  real NOT NULL,
    finished_at real
);

-- What the purge looks for, the oldest first.
CREATE INDEX tasks_ended ON tasks (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX batches_ended ON batches (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX webhooks_of_requests ON webhooks (created_at) WHERE kind = 'request';
