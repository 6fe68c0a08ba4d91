"""The human side of a hand-off: POST /api/v1/session/{id}/handoff, and GET /api/v1/sessions, the desk's list of who waits."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import MAX_MESSAGE_BYTES, new_turn_id, parse_object
from common.errors import Conflict, IdempotencyMismatch, InvalidRequest, NotFound
from common.web.asgi import read_body
from heavy.llm.account import account_of
from heavy.routes.sessions import asked, document, number, whole_document
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.turns import handoff
from heavy.turns.rows import Note, SessionRow
from heavy.turns.summary import summarise

ACTIONS = ("accept", "message", "release")
MAX_BY = 256
MAX_SESSIONS = 500
READ_BACK = 300  # messages that a summary looks at
TRIES = 3


@dataclass(frozen=True, slots=True)
class Step:
    """What a human does. `text` is what is said, or the summary of a release; `turn_id` that of a message."""

    action: str
    text: str | None
    by: str
    turn_id: str


async def post_handoff(request: Request) -> Response:
    """Accepts the session, speaks in it, or gives it back. Answers with the session as it is afterwards."""
    heavy, tenant, session_id = asked(request)
    step = _read(parse_object(await read_body(request.scope, request.receive)), request, tenant, session_id)
    await heavy.mover.settle(tenant, session_id)
    if step.action == "message" and await _said_before(heavy, tenant, step):
        return JSONResponse(await whole_document(heavy, await _session(heavy, tenant, session_id)))
    return JSONResponse(await whole_document(heavy, await _take(heavy, tenant, session_id, step)))


async def list_sessions(request: Request) -> Response:
    """The sessions that are with a human or wait for one, the longest waiting first: ?status=transferred&limit=."""
    caller = caller_of(request.scope)
    caller.need("query")
    if request.query_params.get("status") != "transferred":
        raise InvalidRequest("status must be transferred", field="status")
    heavy = heavy_of(request.scope)
    rows = await heavy.stores.sessions.transferred(caller.tenant, limit=number(request, "limit", 50, MAX_SESSIONS))
    return JSONResponse({"sessions": [await document(heavy, row) for row in rows]})


async def _take(heavy: Heavy, tenant: str, session_id: str, step: Step) -> SessionRow:
    """Takes the step. Where somebody else was quicker it is judged again by what the session has become."""
    summary = step.text
    for _ in range(TRIES):
        session = await _session(heavy, tenant, session_id)
        if step.action == "release" and summary is None and session.status == "transferred":
            summary = await _summary(heavy, session) or ""
        note = _note(session, step, summary)
        if note is None:
            return session
        written = await heavy.notes.write(note)
        if written is not None:
            return written
    raise Conflict("the session has changed meanwhile; look at it and try again")


def _note(session: SessionRow, step: Step, summary: str | None) -> Note | None:
    now = time.time()
    if step.action == "accept":
        return handoff.accept(session, step.by, now)
    if step.action == "message":
        return handoff.message(session, step.text or "", step.by, step.turn_id, now)
    return handoff.release(session, summary, now)


async def _session(heavy: Heavy, tenant: str, session_id: str) -> SessionRow:
    row = await heavy.stores.sessions.get(tenant, session_id)
    if row is None:
        raise NotFound("there is no such session")
    return row


async def _summary(heavy: Heavy, session: SessionRow) -> str | None:
    stored = await heavy.stores.sessions.messages(session.tenant, session.session_id, limit=READ_BACK)
    lines = handoff.since(session.handoff, stored)
    gateway = account_of(heavy.gateway, session.tenant, session.agent_id, session.session_id)
    return await summarise(gateway, (await heavy.agents.of_turn(session.agent_id, session.config_hash)).workflow, lines)


async def _said_before(heavy: Heavy, tenant: str, step: Step) -> bool:
    """Whether this very message, by its Idempotency-Key, is stored already. Raises IdempotencyMismatch for another one under that key."""
    row = await heavy.stores.turns.get(tenant, step.turn_id)
    if row is None:
        return False
    if row.reply is None or row.reply.get("message") != step.text:
        raise IdempotencyMismatch("this Idempotency-Key came with another message before")
    return True


def _read(doc: dict[str, Any], request: Request, tenant: str, session_id: str) -> Step:
    action, text, by = doc.get("action"), doc.get("text"), doc.get("by", "human")
    if action not in ACTIONS:
        raise InvalidRequest(f"action must be one of {', '.join(ACTIONS)}", field="action")
    if text is not None and not (isinstance(text, str) and 0 < len(text.encode()) <= MAX_MESSAGE_BYTES):
        raise InvalidRequest(f"text must be a string of 1 to {MAX_MESSAGE_BYTES} bytes", field="text")
    if action == "message" and not (text and text.strip()):
        raise InvalidRequest("text is required: what the user is to read", field="text")
    if not (isinstance(by, str) and 0 < len(by) <= MAX_BY):
        raise InvalidRequest(f"by must be a string of 1 to {MAX_BY} characters", field="by")
    key = request.headers.get("idempotency-key")
    return Step(action, text, by, _turn_id(tenant, session_id, key) if key else new_turn_id())


def _turn_id(tenant: str, session_id: str, key: str) -> str:
    """The id of the turn of a human's message with an Idempotency-Key: the same for the same request."""
    return f"t_{hashlib.sha256(chr(0).join((tenant, session_id, 'handoff', key)).encode()).hexdigest()[:32]}"
