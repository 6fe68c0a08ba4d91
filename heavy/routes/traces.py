"""GET /admin/api/turns and /admin/api/turns/{id}: which turns there were, and what happened in one, step by step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id
from common.errors import InvalidRequest, NotFound
from common.hotstore.protocol import HotStoreUnavailable
from heavy.agent.toolbox import is_failure
from heavy.llm.legs import CallRecord
from heavy.llm.stores import Wanted
from heavy.llm.types import ToolCall
from heavy.routes.access import reach
from heavy.routes.costs import DAY, line, time_asked
from heavy.routes.paging import next_cursor, read_cursor
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.turns.rows import StoredMessage, TurnRow
from heavy.turns.search import TurnsWanted
from heavy.turns.states import TurnState

MAX_TURNS, MAX_CALLS = 500, 1000
FILTERS = ("session_id", "turn_id", "agent_id", "tier", "matched_by", "config_hash")
SHOWN_CHARS = 200
JOURNAL_BATCHES, DIED_SECONDS = 10, 0.2


async def list_turns(request: Request) -> Response:
    """Turns, the newest first: ?request_id=&session_id=&turn_id=&agent_id=&status=&tier=&matched_by=&config_hash=&from=&to=&tenant=&limit=
    &cursor=. The last 24 hours unless `from` says more; with a request, session or turn id, all of the time."""
    caller = caller_of(request.scope)
    caller.need("admin")
    heavy = heavy_of(request.scope)
    found = wanted(request, reach(caller, request))
    limit = number(request, "limit", 50, MAX_TURNS)
    await moved(heavy)
    rows = await heavy.stores.search.turns(found, before=read_cursor(request), limit=limit)
    more = next_cursor(rows[-1].created_at, rows[-1].turn_id) if len(rows) == limit else None
    return JSONResponse({"turns": [summary(row) for row in rows], "next_cursor": more})


async def get_trace(request: Request) -> Response:
    """One turn: what it asked and answered, and its steps in the order of time. Of several tenants' turns of one id, `tenant` chooses."""
    caller = caller_of(request.scope)
    caller.need("admin")
    heavy, turn_id = heavy_of(request.scope), check_id(request.path_params["turn_id"], "turn_id")
    await moved(heavy)
    rows = await heavy.stores.search.turns(TurnsWanted(reach(caller, request), 0.0, time.time() + DAY, turn_id=turn_id), limit=1)
    if not rows:
        raise NotFound("there is no such turn")
    row = rows[0]
    messages = await heavy.stores.turns.turn_messages(row.tenant, row.turn_id)
    of_turn = Wanted(row.tenant, 0.0, time.time() + DAY, session_id=row.session_id, turn_id=row.turn_id)
    calls = await heavy.stores.ledger.calls(of_turn, limit=MAX_CALLS)
    return JSONResponse(
        {
            **summary(row),
            "message": row.request.get("message"),
            "reply": row.reply,
            "error": row.error,
            "plan": row.plan,
            "approval": row.approval,
            "cancel_reason": row.cancel_reason,
            "steps": steps(row, messages, calls),
        }
    )


def wanted(request: Request, tenant: str | None) -> TurnsWanted:
    """What the query parameters ask for. Raises InvalidRequest naming one that is wrong."""
    asked = request.query_params
    state = asked.get("status")
    if state is not None and state not in get_args(TurnState):
        raise InvalidRequest(f"status must be one of {', '.join(get_args(TurnState))}", field="status")
    by_id = any(asked.get(name) for name in ("request_id", "session_id", "turn_id"))
    now = time.time()
    until = time_asked(request, "to", now + 1)  # the database's clock may be a little ahead
    since = time_asked(request, "from", 0.0 if by_id else until - DAY)
    if since > until:
        raise InvalidRequest("from must not be behind to", field="from")
    given = {name: value for name in FILTERS if (value := asked.get(name)) is not None}
    return TurnsWanted(tenant, since, until, request_id=asked.get("request_id"), state=state, **given)


async def moved(heavy: Heavy) -> None:
    """Moves what rules have just answered into the database, as far as that goes at once; while the hot store is away nothing is moved."""
    with contextlib.suppress(HotStoreUnavailable):
        for _ in range(JOURNAL_BATCHES):
            if not await heavy.mover.move_batch(DIED_SECONDS):
                return


def summary(row: TurnRow) -> dict[str, Any]:
    """A turn in a list."""
    reply: Mapping[str, Any] = row.reply or {}
    began = row.created_at if row.started_at is None else row.started_at
    message = str(row.request.get("message") or "")
    return {
        "turn_id": row.turn_id,
        "tenant": row.tenant,
        "session_id": row.session_id,
        "agent_id": row.agent_id,
        "user_id": row.request.get("user_id"),
        "request_id": row.request.get("request_id"),
        "status": row.state,
        "route": reply.get("route"),
        "message_start": message[:SHOWN_CHARS],
        "attempt": row.attempt,
        "config_hash": row.config_hash,
        "usage": asdict(row.usage),
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "ms": None if row.finished_at is None else _ms(row.finished_at - began),
        "waited_ms": None if row.started_at is None else _ms(row.started_at - row.created_at),
    }


def steps(row: TurnRow, messages: Sequence[StoredMessage], calls: Sequence[CallRecord]) -> list[dict[str, Any]]:
    """What happened in a turn: `asked`, `llm_call`, `tool_call` and `said`, by the time at which each began."""
    found = [*_of_messages(row, messages), *({"kind": "llm_call", "at": c.began, "ms": _ms(c.seconds), **_call(c)} for c in calls)]
    return sorted(found, key=lambda step: step["at"])


def _call(call: CallRecord) -> dict[str, Any]:
    first = call.first_token_seconds
    named = ("call_id", "purpose", "skill", "alias", "target", "model", "outcome", "input_tokens", "cached_tokens", "output_tokens")
    told = line(call)
    return {
        **{name: told[name] for name in named},
        "first_token_ms": None if first is None else _ms(first),
        "cost_usd": told["cost_usd"],
        "estimated": call.estimated,
        "cached_reply": call.cached_reply,
    }


def _of_messages(row: TurnRow, messages: Sequence[StoredMessage]) -> Iterator[dict[str, Any]]:
    results = {m.message.tool_call_id: m for m in messages if m.message.role == "tool"}
    for stored in messages:
        message = stored.message
        if message.role == "user":
            yield {"kind": "asked", "at": row.created_at, "ms": None, "text": message.content, "author": message.author}
        elif message.role == "assistant":
            if message.content:
                yield {"kind": "said", "at": stored.at, "ms": None, "text": message.content, "author": message.author}
            for call in message.tool_calls:
                yield _tool_call(call, stored, results.get(call.id))


def _tool_call(call: ToolCall, asked: StoredMessage, result: StoredMessage | None) -> dict[str, Any]:
    """A call of a tool with its result; without one it was not executed (yet)."""
    ms = result.message.ms if result else None
    return {
        "kind": "tool_call",
        "at": asked.at if result is None or ms is None else max(asked.at, result.at - ms / 1000),
        "ms": ms,
        "call_id": call.id,
        "name": call.name,
        "arguments": _json(call.arguments),
        "ok": None if result is None else not is_failure(result.message),
        "result": None if result is None else _json(result.message.content),
    }


def _json(text: str) -> Any:
    """A text's value where it is JSON, else the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1000, 3)
