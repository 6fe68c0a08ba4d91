"""GET /admin/api/sessions: the sessions of a tenant, by whose they are, what they have become and when they began."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id
from common.errors import InvalidRequest
from heavy.routes.costs import time_asked
from heavy.routes.paging import next_cursor, read_cursor
from heavy.routes.sessions import document, number
from heavy.routes.state import caller_of, heavy_of
from heavy.routes.traces import moved
from heavy.turns.rows import SoughtSessions

MAX_SESSIONS = 500
MAX_USER_ID = 256
STATUSES = ("ready", "in_conversation", "transferred", "closed")


async def find_sessions(request: Request) -> Response:
    """Those that began last first: ?user_id=&agent_id=&status=&from=&to=&cursor=&limit=."""
    caller = caller_of(request.scope)
    caller.need("admin")
    heavy, asked = heavy_of(request.scope), request.query_params
    status, user_id, agent_id = asked.get("status") or None, asked.get("user_id") or None, asked.get("agent_id") or None
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(STATUSES)}", field="status")
    if user_id is not None and len(user_id) > MAX_USER_ID:
        raise InvalidRequest(f"user_id must be at most {MAX_USER_ID} characters", field="user_id")
    sought = SoughtSessions(
        user_id=user_id,
        agent_id=check_id(agent_id, "agent_id") if agent_id else None,
        status=status,
        since=time_asked(request, "from", 0.0),
        until=time_asked(request, "to", 1e12),
    )
    limit = number(request, "limit", 50, MAX_SESSIONS)
    await moved(heavy)
    rows = await heavy.stores.sessions.page(caller.tenant, sought, before=read_cursor(request), limit=limit)
    more = next_cursor(rows[-1].created_at, rows[-1].session_id) if len(rows) == limit else None
    return JSONResponse({"sessions": [await document(heavy, row) for row in rows], "next_cursor": more})
