-- Webhooks and the messages on their way to them (heavy.turns.webhooks). Times are Unix seconds, JSON is kept as text.

-- `events` are names with a space before and behind each. `host` is that of the URL, with its port.
CREATE TABLE webhooks (
    tenant          text             NOT NULL,
    webhook_id      text             NOT NULL,
    kind            text             NOT NULL CHECK (kind IN ('tenant', 'request')),
    url             text             NOT NULL,
    host            text             NOT NULL,
    events          text             NOT NULL,
    secret          text,
    description     text             NOT NULL DEFAULT '',
    created_at      double precision NOT NULL,
    failing_since   double precision,
    disabled_at     double precision,
    disabled_reason text,
    PRIMARY KEY (tenant, webhook_id)
);

-- Every event asks for these. Webhooks of requests, of which there may be many, are not in it.
CREATE INDEX webhooks_listening ON webhooks (tenant) WHERE kind = 'tenant' AND disabled_at IS NULL;

-- Ids sort by time. There is no foreign key: the end of a turn must not fail because a webhook is deleted at the same moment.
CREATE TABLE deliveries (
    tenant      text             NOT NULL,
    delivery_id text             NOT NULL,
    webhook_id  text             NOT NULL,
    session_id  text,
    host        text             NOT NULL,
    type        text             NOT NULL,
    data        text             NOT NULL,
    at          double precision NOT NULL,
    status      text             NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts    integer          NOT NULL DEFAULT 0,
    next_at     double precision NOT NULL,
    last_status integer,
    last_error  text,
    created_at  double precision NOT NULL,
    finished_at double precision,
    PRIMARY KEY (tenant, delivery_id)
) WITH (fillfactor = 80);

-- By tenant and host first: whoever looks takes a few of each, however many wait for a slow one.
CREATE INDEX deliveries_due ON deliveries (tenant, host, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_failed ON deliveries (tenant, delivery_id) WHERE status = 'failed';
CREATE INDEX deliveries_of_session ON deliveries (tenant, session_id) WHERE session_id IS NOT NULL;
