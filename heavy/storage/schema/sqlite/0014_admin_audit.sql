-- Who has changed what (heavy.tenants.audit). Ids sort by time. `tenant` is the one whose things were changed.

CREATE TABLE admin_audit (
    audit_id text NOT NULL PRIMARY KEY,
    at real NOT NULL,
    tenant text NOT NULL,
    actor text NOT NULL,
    via text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail text NOT NULL
);

CREATE INDEX admin_audit_of_tenant ON admin_audit (tenant, audit_id);

-- Lists of sessions, the newest first. Neither column changes in a session's life, so a turn's end does not touch them.
CREATE INDEX sessions_listed ON sessions (tenant, created_at, session_id);
CREATE INDEX sessions_of_user ON sessions (tenant, user_id, created_at) WHERE user_id IS NOT NULL;
