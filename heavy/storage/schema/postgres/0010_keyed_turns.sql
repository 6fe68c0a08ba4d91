-- Turns that came with an Idempotency-Key, by age: the rule tier is told of them when the hot store has been away.

CREATE INDEX turns_keyed ON turns (created_at) WHERE request LIKE '%"fingerprint":%';
