"""The playground: a message to an agent as a user would send it, how it was routed and why, and its steps while they happen."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.responses import Response

from common.contracts.query import check_id, new_turn_id, read_query
from common.errors import NotFound
from heavy.admin.found import agents, totals
from heavy.admin.frame import Visit
from heavy.routes.learned import match
from heavy.routes.query import Admission, accept
from heavy.routes.sessions import get_session
from heavy.routes.traces import get_trace

ENDED = ("done", "failed", "cancelled", "awaiting_approval")
SHOWN = 60


async def playground(visit: Visit) -> Response:
    """The form, what was said in the session so far, and the turn that was begun last."""
    asked = visit.query
    session_id = asked.get("session_id") or f"playground-{new_turn_id()[-8:]}"
    messages: list[Any] = []
    with contextlib.suppress(NotFound):  # a session begins with its first message
        found = await visit.ask(
            get_session, path={"session_id": check_id(session_id, "session_id")}, query={"include": "messages", "limit": SHOWN}
        )
        messages = [m for m in found["messages"] if m["role"] in ("user", "assistant") and m["content"]]
    turn = await _turn(visit, asked["turn"]) if "turn" in asked else {"found": None}
    chosen = asked.get("agent_id") or next(iter(agents(visit)), "")
    return visit.page("playground.html", session_id=session_id, messages=messages, agents=agents(visit), agent_id=chosen, **turn)


async def say(visit: Visit) -> Response:
    """Begins a turn with a message, under the tenant's own limits."""
    form, heavy = visit.form, visit.heavy
    doc = {"message": form.get("message", ""), "session_id": form.get("session_id", "").strip(), "agent_id": form.get("agent_id") or None}
    query = read_query({name: value for name, value in doc.items() if value is not None})
    plan, config_hash = await heavy.agents.plan(query, visit.visitor.tenant)
    admission = Admission(visit.visitor.tenant, new_turn_id(), plan, None, None, config_hash)
    submitted = await accept(heavy, visit.request.scope, query, admission, streaming=False)
    return visit.go("/playground", session_id=query.session_id, agent_id=query.agent_id or "", turn=submitted.turn.turn_id)


async def turn_live(visit: Visit) -> Response:
    """The steps of a turn so far; while it runs it asks for itself again."""
    return visit.page("playground_turn.html", **await _turn(visit, visit.request.path_params["turn_id"]))


async def explain(visit: Visit) -> Response:
    """How a text would be routed now, with every rule that is found. Nothing is called."""
    agent_id = check_id(visit.form.get("agent_id", ""), "agent_id")
    told = await visit.ask(match, path={"agent_id": agent_id}, body={"message": visit.form.get("message", "")})
    return visit.page("explained.html", told=told, text=visit.form.get("message", ""), agent_id=agent_id)


async def _turn(visit: Visit, turn_id: str) -> dict[str, Any]:
    """A turn with what was routed; None where it is not in the database yet."""
    found = await visit.ask(get_trace, path={"turn_id": check_id(turn_id, "turn_id")})
    running = found["status"] not in ENDED
    told = await visit.ask(match, path={"agent_id": found["agent_id"]}, body={"message": found["message"]}) if found["message"] else None
    return {"found": found, "running": running, "totals": totals(found["steps"]), "told": told}
