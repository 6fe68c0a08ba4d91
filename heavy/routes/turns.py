"""GET /api/v1/turns/{id}, its stream with resume, and its cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id
from common.errors import NotFound
from common.web.asgi import Receive, Scope, Send
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.routes.stream import cancels_on_disconnect, send_turn, starting_after
from heavy.turns.rows import TurnRow
from heavy.turns.states import ACTIVE

# How much of the journal is moved for one request: under load it never ends.
JOURNAL_BATCHES = 10
MOVING_SECONDS = 0.05
DIED_SECONDS = 0.2  # longer than a live replica has entries in hand


async def get_turn(request: Request) -> Response:
    """State and result of a turn."""
    heavy, tenant, turn_id = asked(request.scope)
    row = await find(heavy, tenant, turn_id)
    return JSONResponse(document(row))


async def cancel_turn(request: Request) -> Response:
    """Asks a turn to end; 202 whether it still runs or has ended."""
    heavy, tenant, turn_id = asked(request.scope)
    await find(heavy, tenant, turn_id)
    row = await heavy.stores.turns.cancel(tenant, turn_id)
    if row is None:
        raise NotFound("there is no such turn")
    await heavy.owner.cancel_anywhere(turn_id, "cancelled")
    return JSONResponse({"turn_id": turn_id, "status": "cancelling" if row.state in ACTIVE else row.state}, 202)


async def stream_turn(scope: Scope, receive: Receive, send: Send) -> None:
    """Replays what came after Last-Event-ID (or starting_after), then follows live to the terminal event."""
    heavy, tenant, turn_id = asked(scope)
    after = starting_after(scope)
    cancels = cancels_on_disconnect(scope)
    async with heavy.quotas.stream(tenant, scope["headers"]):
        owned = heavy.owner.get(turn_id)
        if owned is not None and owned.tenant == tenant:
            await send_turn(heavy, scope, receive, send, tenant, owned, after=after, cancels=cancels)
            return
        await find(heavy, tenant, turn_id)
        row = await heavy.reader.open(tenant, turn_id)
        await send_turn(heavy, scope, receive, send, tenant, row, after=after, cancels=cancels)


async def find(heavy: Heavy, tenant: str, turn_id: str) -> TurnRow:
    """The turn; a rule-answered one may still be on its way to the database. Raises NotFound."""
    row = await heavy.stores.turns.get(tenant, turn_id)
    for _ in range(JOURNAL_BATCHES):
        if row is not None:
            return row
        if not await heavy.mover.move_batch(DIED_SECONDS):
            if not await heavy.hotstore.journal_size():
                break
            await asyncio.sleep(MOVING_SECONDS)  # another replica has it in hand just now, or has died with it
        row = await heavy.stores.turns.get(tenant, turn_id)
    if row is None:
        raise NotFound("there is no such turn")
    return row


def document(row: TurnRow) -> dict[str, Any]:
    """A turn as clients see it."""
    return {
        "turn_id": row.turn_id,
        "session_id": row.session_id,
        "agent_id": row.agent_id,
        "state": row.state,
        "attempt": row.attempt,
        "config_hash": row.config_hash,
        "result": row.reply,
        "error": row.error,
        "approval": row.approval,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


def asked(scope: Scope) -> tuple[Heavy, str, str]:
    """Who asks for which turn. Raises Unauthorized, Forbidden, InvalidRequest."""
    heavy, caller = heavy_of(scope), caller_of(scope)
    caller.need("query")
    return heavy, caller.tenant, check_id(scope["path_params"]["turn_id"], "turn_id")
