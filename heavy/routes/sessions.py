"""GET and DELETE /api/v1/session/{id}."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.gate import greeting_hash
from common.contracts.idempotency import KEPT_SECONDS, digest_in
from common.contracts.query import check_id
from common.errors import InvalidRequest, NotFound
from common.hotstore import keys
from common.hotstore.protocol import HotStoreUnavailable
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.turns.notes import tell
from heavy.turns.rows import SessionRow, StoredMessage

MAX_MESSAGES = 500


async def get_session(request: Request) -> Response:
    """The session's state, with its messages when asked for: ?include=messages&limit=&before=."""
    heavy, tenant, session_id = asked(request)
    await heavy.mover.settle(tenant, session_id)
    row = await heavy.stores.sessions.get(tenant, session_id)
    if row is None:
        raise NotFound("there is no such session")
    reply = await whole_document(heavy, row)
    include = request.query_params.get("include", "")
    if include not in ("", "messages"):
        raise InvalidRequest("include must be messages", field="include")
    if include:
        limit = number(request, "limit", 50, MAX_MESSAGES)
        before = number(request, "before", 0, 2**31) or None
        stored = await heavy.stores.sessions.messages(tenant, session_id, limit=limit, before_seq=before)
        reply["messages"] = [_message(m) for m in stored]
        reply["before"] = stored[0].turn_seq if stored and stored[0].turn_seq > 1 else None
    return JSONResponse(reply)


async def delete_session(request: Request) -> Response:
    """Erases the session: messages, turns, hot state."""
    heavy, tenant, session_id = asked(request)
    await heavy.mover.settle(tenant, session_id)
    turns = await _recent_turns(heavy, tenant, session_id)
    hot = [make(tenant, session_id) for make in (keys.gate, keys.window, keys.pending)]
    hot += [key for turn_id in turns for key in (keys.events(turn_id), keys.idempotency(tenant, digest_in(turn_id)))]
    found = await heavy.stores.sessions.delete(tenant, session_id)
    try:
        await heavy.hotstore.delete(*hot)
    except HotStoreUnavailable:
        found = found or False  # what is hot expires by itself, and is not read without its session in the database
    if not found:
        raise NotFound("there is no such session")
    await tell(heavy.hotstore, tenant, session_id)
    return JSONResponse({"status": "deleted"})


async def _recent_turns(heavy: Heavy, tenant: str, session_id: str) -> set[str]:
    """The turns of a session whose event logs, or replies under an Idempotency-Key, may still be in the hot store."""
    oldest, before, found = time.time() - 2 * KEPT_SECONDS, None, set()
    while page := await heavy.stores.sessions.messages(tenant, session_id, limit=MAX_MESSAGES, before_seq=before):
        found |= {message.turn_id for message in page}
        before = page[0].turn_seq
        if page[0].at < oldest:
            break
    return found


async def document(heavy: Heavy, row: SessionRow) -> dict[str, Any]:
    """A session as clients see it. `need_greeting` says whether the next answer begins with the agent's greeting."""
    wanted = ""
    if heavy.agents.serves(row.agent_id):
        wanted = greeting_hash((await heavy.agents.choose(row.agent_id, row.tenant, row.session_id)).workflow.greeting)
    return {
        "session_id": row.session_id,
        "agent_id": row.agent_id,
        "user_id": row.user_id,
        "workflow_state": {
            "config_hash": row.config_hash,
            "need_greeting": bool(wanted) and row.greeting != wanted,
            "status": "processing" if row.active else row.status,
            "current_skill": row.current_skill,
        },
        "handoff": dict(row.handoff) or None,
        "last_event_id": row.event_seq,
        "message_count": row.message_count,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "usage": asdict(row.usage),
    }


async def whole_document(heavy: Heavy, row: SessionRow) -> dict[str, Any]:
    """The same with the turns that await an approval."""
    awaiting = await heavy.stores.turns.awaiting(row.tenant, row.session_id)
    return {**await document(heavy, row), "awaiting_approval": [turn.turn_id for turn in awaiting]}


def _message(stored: StoredMessage) -> dict[str, Any]:
    message = stored.message
    reply: dict[str, Any] = {
        "turn": stored.turn_seq,
        "turn_id": stored.turn_id,
        "index": stored.idx,
        "role": message.role,
        "content": message.content,
        "at": stored.at,
    }
    if message.author:
        reply["author"] = message.author
    if message.tool_calls:
        reply["tool_calls"] = [asdict(c) for c in message.tool_calls]
    if message.tool_call_id:
        reply["tool_call_id"] = message.tool_call_id
    return reply


def asked(request: Request) -> tuple[Heavy, str, str]:
    """Who asks for which session. Raises Unauthorized, Forbidden, InvalidRequest."""
    caller = caller_of(request.scope)
    caller.need("query")
    return heavy_of(request.scope), caller.tenant, check_id(request.path_params["session_id"], "session_id")


def number(request: Request, name: str, default: int, most: int) -> int:
    """A query parameter from 1 to `most`. Raises InvalidRequest naming it."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not value.isdigit() or not 1 <= int(value) <= most:
        raise InvalidRequest(f"{name} must be a number from 1 to {most}", field=name)
    return int(value)
