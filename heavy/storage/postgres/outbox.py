"""The SQL with which a statement that makes an event also makes its messages to webhooks, on PostgreSQL: a CTE beside its others."""

from __future__ import annotations

_WANTED = "strpos({names}, ' ' || e.type || ' ') > 0"


def messages_to_webhooks(events: str, *, own: bool = False, name: str = "d") -> str:
    """The CTE `name`: for each row of the CTE `events` (columns tenant, session_id, type, data, at) one message to every enabled webhook
    of its tenant that wants the type. Webhooks of requests hear too: with `own` the one that the rows name in webhook_id and
    webhook_events (no webhook is null, and so are all events), without it those of the session's tasks that want its events, too.
    Names of events stand in text with a space before and behind each.

    The ids are laid out as those of turns: 12 hex digits of milliseconds, then random ones.
    """
    listening = f"""
        SELECT webhook_id, host FROM webhooks
        WHERE tenant = e.tenant AND kind = 'tenant' AND disabled_at IS NULL AND {_WANTED.format(names="events")}"""
    if own:
        listening += f"""
        UNION ALL
        SELECT webhook_id, host FROM webhooks
        WHERE tenant = e.tenant AND webhook_id = e.webhook_id AND kind = 'request' AND disabled_at IS NULL
            AND (e.webhook_events IS NULL OR {_WANTED.format(names="e.webhook_events")})"""
    else:
        listening += f"""
        UNION ALL
        SELECT webhook_id, host FROM webhooks
        WHERE tenant = e.tenant AND kind = 'request' AND disabled_at IS NULL AND webhook_id IN (
            SELECT webhook_id FROM tasks
            WHERE tenant = e.tenant AND session_id = e.session_id AND webhook_events LIKE '% session.%'
                AND {_WANTED.format(names="webhook_events")})"""
    return f"""
{name} AS (
    INSERT INTO deliveries (tenant, delivery_id, webhook_id, session_id, host, type, data, at, next_at, created_at)
    SELECT e.tenant, 'msg_' || lpad(to_hex((now * 1000)::bigint), 12, '0') || right(replace(gen_random_uuid()::text, '-', ''), 20),
        w.webhook_id, e.session_id, w.host, e.type, e.data, e.at, now, now
    FROM (SELECT extract(epoch FROM now())::float8 AS now) AS instant, {events} e, LATERAL ({listening}) w)"""
