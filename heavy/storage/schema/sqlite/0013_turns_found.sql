-- Turns are found by the request that brought them, and listed by time (heavy.turns.search).

CREATE INDEX turns_by_request ON turns (json_extract(request, '$.request_id'), tenant) WHERE request LIKE '%"request_id":%';
CREATE INDEX turns_by_time ON turns (created_at, turn_id);
