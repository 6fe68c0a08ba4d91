-- Turns are found by the request that brought them, and listed by time (heavy.turns.search).

-- Not by reading the JSON: that would refuse a message with \u0000. The last one counts, behind a caller's own context; in a user's words
-- quotation marks are escaped.
CREATE INDEX turns_by_request ON turns (substring(request from '.*"request_id":"([A-Za-z0-9._-]+)"'), tenant)
    WHERE request LIKE '%"request_id":%';
CREATE INDEX turns_by_time ON turns (created_at, turn_id);
