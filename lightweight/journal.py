"""Records what a rule answered: the turn goes into the hot store's journal, and heavy moves it from there into the database.

One atomic trip checks the session's gate and writes; a hot store that is away costs the record, never the answer.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Any

import orjson

from common.contracts.gate import Gate, read
from common.contracts.query import Query
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable


class Unrecorded(Enum):
    """The hot store is away; whether the entry was written is not known."""

    UNRECORDED = "unrecorded"


UNRECORDED = Unrecorded.UNRECORDED


def entry(
    tenant: str,
    agent_id: str,
    query: Query,
    reply: bytes,
    greeting: str,
    fingerprint: str = "",
    request_id: str = "",
    seconds: float = 0.0,
) -> bytes:
    """A `common.contracts.journal.JournalEntry` as JSON, around a reply that is JSON already."""
    fields: dict[str, Any] = {
        "tenant": tenant,
        "agent_id": agent_id,
        "user_id": query.user_id,
        "message": query.message,
        "reply": orjson.Fragment(reply),
        "at": time.time(),
        "greeting": greeting,
        "request_id": request_id,
        "seconds": seconds,
    }
    if fingerprint:
        fields["fingerprint"] = fingerprint
    return orjson.dumps(fields)


async def record(
    hotstore: HotStore, tenant: str, session_id: str, turn_id: str, data: bytes, allowed: bytes, new_gate: bytes | None = None
) -> Gate | Unrecorded | None:
    """None when the turn is recorded; the gate that stands in the way when it is not; UNRECORDED without a hot store. Never raises."""
    try:
        recorded, gate = await hotstore.record(
            keys.gate(tenant, session_id), keys.pending(tenant, session_id), turn_id, data, allowed, new_gate
        )
    except HotStoreUnavailable:
        return UNRECORDED
    return None if recorded else read(gate) or Gate()
