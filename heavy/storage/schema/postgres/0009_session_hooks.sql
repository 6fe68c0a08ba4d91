-- Tasks whose webhook wants to hear of their session's events, too.

CREATE INDEX tasks_hooked ON tasks (tenant, session_id) WHERE webhook_events LIKE '% session.%';
