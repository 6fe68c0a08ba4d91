-- Tasks that wait for their time or for a free slot, batches of them, cron schedules (heavy.jobs). Times are Unix seconds, JSON is text.

-- A task becomes the turn whose id it has. `lane` is task or batch. `request` is the query; `error` the problem of a failed one.
-- `lease_until` covers the time until there is a turn; `owner` is the process that runs it, none while it awaits an approval.
CREATE TABLE tasks (
    tenant text NOT NULL,
    task_id text NOT NULL,
    session_id text NOT NULL,
    agent_id text NOT NULL,
    lane text NOT NULL CHECK (lane IN ('task', 'batch')),
    status text NOT NULL CHECK (status IN ('pending', 'running', 'success', 'failure', 'cancelled')),
    request text NOT NULL,
    error text,
    run_at real NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    cancel_requested integer NOT NULL DEFAULT 0,
    batch_id text,
    position integer,
    schedule_id text,
    retry_of text,
    webhook_id text,
    webhook_events text,
    fingerprint text NOT NULL DEFAULT '',
    owner text,
    lease_until real NOT NULL DEFAULT 0,
    created_at real NOT NULL,
    started_at real,
    finished_at real,
    PRIMARY KEY (tenant, task_id)
);

-- Few tasks wait or run at a time, so the first two stay small however long the history grows.
CREATE INDEX tasks_due ON tasks (lane, tenant, run_at, task_id) WHERE status = 'pending';
CREATE INDEX tasks_running ON tasks (tenant, session_id) WHERE status = 'running';
CREATE INDEX tasks_listed ON tasks (tenant, created_at, task_id);
-- Most tasks succeed: what is looked for by its status is among the others.
CREATE INDEX tasks_by_status ON tasks (tenant, status, created_at, task_id) WHERE status <> 'success';
CREATE INDEX tasks_of_session ON tasks (tenant, session_id, created_at, task_id);
CREATE UNIQUE INDEX tasks_of_batch ON tasks (tenant, batch_id, position) WHERE batch_id IS NOT NULL;

-- `open` counts the tasks that have not ended; at 0 the batch is finished.
CREATE TABLE batches (
    tenant text NOT NULL,
    batch_id text NOT NULL,
    total integer NOT NULL,
    rejected integer NOT NULL,
    open integer NOT NULL,
    webhook_id text,
    webhook_events text,
    fingerprint text NOT NULL DEFAULT '',
    created_at real NOT NULL,
    finished_at real,
    PRIMARY KEY (tenant, batch_id)
);

-- `next_at` is the next tick; whoever moves it on makes the tick's task in the same statement.
CREATE TABLE schedules (
    tenant text NOT NULL,
    schedule_id text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    session_id text NOT NULL,
    agent_id text NOT NULL,
    request text NOT NULL,
    max_attempts integer NOT NULL,
    webhook_id text,
    webhook_events text,
    enabled integer NOT NULL,
    next_at real NOT NULL,
    last_at real,
    created_at real NOT NULL,
    PRIMARY KEY (tenant, schedule_id)
);

CREATE INDEX schedules_next ON schedules (next_at) WHERE enabled;
