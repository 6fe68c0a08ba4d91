-- API keys and the limits of tenants (heavy.tenants). Of a key's text only its SHA-256 is kept, in hex. Times are Unix seconds.

CREATE TABLE api_keys (
    tenant     text             NOT NULL,
    key_id     text             NOT NULL,
    name       text             NOT NULL,
    digest     text             NOT NULL,
    scopes     text             NOT NULL, -- with a space between
    created_at double precision NOT NULL,
    expires_at double precision,
    revoked_at double precision,
    PRIMARY KEY (tenant, key_id)
);

CREATE UNIQUE INDEX api_keys_by_id ON api_keys (key_id);
CREATE UNIQUE INDEX api_keys_by_digest ON api_keys (digest);

-- `limits` is a JSON object of those that are set.
CREATE TABLE tenants (
    tenant text PRIMARY KEY,
    limits text NOT NULL
);

-- One row. Every change of the two tables raises it, whoever makes it: servers ask for it each second. It begins with the time, so that
-- another database is not taken for this one.
CREATE TABLE access_revision (
    single   boolean PRIMARY KEY DEFAULT true CHECK (single),
    revision bigint  NOT NULL
);

INSERT INTO access_revision (revision) VALUES ((extract(epoch FROM now()) * 1000)::bigint);

CREATE FUNCTION raise_access_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE access_revision SET revision = revision + 1;
    RETURN NULL;
END $$;

CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_keys EXECUTE FUNCTION raise_access_revision();
CREATE TRIGGER tenants_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenants EXECUTE FUNCTION raise_access_revision();

-- What a tenant has spent today: only turns that called a model are in it.
CREATE INDEX turns_spent ON turns (tenant, finished_at) WHERE llm_calls > 0;
