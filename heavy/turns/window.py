"""The hot window: the recent messages of a session in the hot store, so that a turn need not read them from the database.

It is valid only when it holds everything up to the turn before the one that asks; else the database is read. It knows no LLM limits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import orjson

from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.llm.types import Message, ToolCall
from heavy.turns.stores import SessionStore

log = logging.getLogger(__name__)

WINDOW_MESSAGES = 200
MAX_BYTES = 256 * 1024  # a larger window is read from the database instead: it would cost more on its way than it saves


async def peek(hotstore: HotStore, tenant: str, session_id: str) -> bytes | None:
    """The stored window, None without one or without a hot store."""
    try:
        return await hotstore.get(keys.window(tenant, session_id))
    except HotStoreUnavailable:
        return None


async def load(peeked: bytes | None, sessions: SessionStore, tenant: str, session_id: str, seq: int) -> list[Message]:
    """The messages before turn `seq`, oldest first, whole turns."""
    if seq <= 1:
        return []
    if peeked:
        try:
            doc = orjson.loads(peeked)
            if doc["seq"] == seq - 1:
                return [_message(m) for m in doc["messages"]]
        except (ValueError, TypeError, KeyError):
            log.warning("a hot window is not of this version's form: the database is read")
    stored = await sessions.messages(tenant, session_id, limit=WINDOW_MESSAGES, before_seq=seq)
    return [s.message for s in stored]


async def save(hotstore: HotStore, tenant: str, session_id: str, seq: int, messages: Sequence[Message]) -> None:
    """Stores the window after turn `seq`, cut at the beginning of a turn."""
    recent = list(messages[-WINDOW_MESSAGES:])
    while len(messages) > WINDOW_MESSAGES and recent and recent[0].role != "user":
        recent.pop(0)
    data = orjson.dumps({"seq": seq, "messages": recent})
    if len(data) <= MAX_BYTES:  # an older one stays, and is not valid for the next turn
        await hotstore.set(keys.window(tenant, session_id), data, keys.WINDOW_TTL)


def _message(doc: dict) -> Message:
    calls = tuple(ToolCall(**c) for c in doc["tool_calls"])
    return Message(doc["role"], doc["content"], calls, doc["tool_call_id"], doc.get("author"))
