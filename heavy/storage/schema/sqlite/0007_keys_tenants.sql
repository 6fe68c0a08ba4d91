-- API keys and the limits of tenants (heavy.tenants). Of a key's text only its SHA-256 is kept, in hex. Times are Unix seconds.

-- `scopes` have a space between.
CREATE TABLE api_keys (
    tenant text NOT NULL,
    key_id text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    scopes text NOT NULL,
    created_at real NOT NULL,
    expires_at real,
    revoked_at real,
    PRIMARY KEY (tenant, key_id)
);

CREATE UNIQUE INDEX api_keys_by_id ON api_keys (key_id);
CREATE UNIQUE INDEX api_keys_by_digest ON api_keys (digest);

-- `limits` is a JSON object of those that are set.
CREATE TABLE tenants (
    tenant text NOT NULL PRIMARY KEY,
    limits text NOT NULL
);

-- One row. Every change of the two tables raises it, whoever makes it: servers ask for it each second. It begins with the time in
-- milliseconds, so that another database is not taken for this one.
CREATE TABLE access_revision (
    single integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    revision integer NOT NULL
);

INSERT INTO access_revision (revision) VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS integer));

CREATE TRIGGER api_keys_added AFTER INSERT ON api_keys BEGIN UPDATE access_revision SET revision = revision + 1; END;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys BEGIN UPDATE access_revision SET revision = revision + 1; END;
CREATE TRIGGER api_keys_removed AFTER DELETE ON api_keys BEGIN UPDATE access_revision SET revision = revision + 1; END;
CREATE TRIGGER tenants_added AFTER INSERT ON tenants BEGIN UPDATE access_revision SET revision = revision + 1; END;
CREATE TRIGGER tenants_changed AFTER UPDATE ON tenants BEGIN UPDATE access_revision SET revision = revision + 1; END;
CREATE TRIGGER tenants_removed AFTER DELETE ON tenants BEGIN UPDATE access_revision SET revision = revision + 1; END;

-- What a tenant has spent today: only turns that called a model are in it.
CREATE INDEX turns_spent ON turns (tenant, finished_at) WHERE llm_calls > 0;
