-- The config centre (heavy.configs.stores). Times are Unix seconds of the database's clock; JSON is text.

CREATE TABLE config_versions (
    agent_id    text    NOT NULL,
    version     integer NOT NULL,
    config_hash text    NOT NULL,
    form        text    NOT NULL,
    text        text    NOT NULL,
    author      text    NOT NULL,
    note        text    NOT NULL,
    problems    text    NOT NULL,
    tests       text    NOT NULL,
    created_at  real    NOT NULL,
    PRIMARY KEY (agent_id, version)
);

CREATE UNIQUE INDEX config_versions_by_hash ON config_versions (agent_id, config_hash);

-- What is in force: version numbers, null for none. `edition` counts the changes of the row.
CREATE TABLE config_agents (
    agent_id     text    PRIMARY KEY,
    edition      integer NOT NULL DEFAULT 0,
    active       integer,
    canary       integer,
    percent      real    NOT NULL DEFAULT 0,
    previous     integer,
    since        real,
    canary_since real,
    created_at   real    NOT NULL
);

CREATE TABLE config_changes (
    agent_id  text    NOT NULL,
    change_id text    NOT NULL,
    at        real    NOT NULL,
    action    text    NOT NULL,
    version   integer NOT NULL,
    percent   real,
    author    text    NOT NULL,
    note      text    NOT NULL,
    PRIMARY KEY (agent_id, change_id)
);

CREATE INDEX config_changes_listed ON config_changes (agent_id, at);

CREATE TABLE config_revision (revision integer NOT NULL);
INSERT INTO config_revision VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS integer));
