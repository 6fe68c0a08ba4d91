"""Sessions and turns: looked for by what is known of them, and one of each in full; a turn as the timeline of its steps."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from common.contracts.query import check_id
from common.errors import NotFound
from heavy.admin.frame import Visit
from heavy.routes.found_sessions import STATUSES, find_sessions
from heavy.routes.sessions import delete_session, get_session
from heavy.routes.traces import get_trace, list_turns
from heavy.routes.turns import cancel_turn
from heavy.turns.states import ACTIVE

SHOWN = 50
TURN_STATES = ("accepted", "waiting", "running", "awaiting_approval", "done", "failed", "cancelled")
MATCHED = ("rule", "learned", "llm", "conversation", "none")


async def sessions(visit: Visit) -> Response:
    """The list; with a session's id, the session."""
    asked = visit.query
    if session_id := asked.get("session_id"):
        return visit.go(f"/sessions/{check_id(session_id, 'session_id')}")
    names = ("user_id", "agent_id", "status", "from", "to", "cursor")
    found = await visit.ask(find_sessions, query={**{name: asked.get(name) for name in names}, "limit": SHOWN})
    return visit.page("sessions.html", found=found, statuses=STATUSES, agents=agents(visit))


async def session(visit: Visit) -> Response:
    """One session: what it is, what was said, its turns."""
    session_id = check_id(visit.request.path_params["session_id"], "session_id")
    asked = {"include": "messages", "limit": 100, "before": visit.query.get("before")}
    found = await visit.ask(get_session, path={"session_id": session_id}, query=asked)
    turns = await visit.ask(list_turns, query={"session_id": session_id, "limit": SHOWN, "cursor": visit.query.get("cursor")})
    return visit.page("session.html", found=found, turns=turns)


async def erase_session(visit: Visit) -> Response:
    """Erases a session and everything of it."""
    path = {"session_id": check_id(visit.request.path_params["session_id"], "session_id")}
    await visit.change("session.delete", delete_session, path=path)
    return visit.go("/sessions", "erased")


async def turns(visit: Visit) -> Response:
    """The list; a turn's id leads to the turn."""
    asked = visit.query
    if turn_id := asked.get("turn_id"):
        return visit.go(f"/turns/{check_id(turn_id, 'turn_id')}")
    names = ("request_id", "session_id", "agent_id", "status", "tier", "matched_by", "config_hash", "from", "to", "cursor")
    found = await visit.ask(list_turns, query={**{name: asked.get(name) for name in names}, "limit": SHOWN})
    return visit.page("turns.html", found=found, states=TURN_STATES, matched=MATCHED, agents=agents(visit))


async def turn(visit: Visit) -> Response:
    """One turn with its steps."""
    turn_id = check_id(visit.request.path_params["turn_id"], "turn_id")
    found = await visit.ask(get_trace, path={"turn_id": turn_id})
    if found["tenant"] != visit.visitor.tenant:
        raise NotFound("there is no such turn")
    return visit.page("turn.html", found=found, totals=totals(found["steps"]), active=found["status"] in (*ACTIVE, "awaiting_approval"))


async def end_turn(visit: Visit) -> Response:
    """Asks a turn to end."""
    turn_id = check_id(visit.request.path_params["turn_id"], "turn_id")
    await visit.change("turn.cancel", cancel_turn, path={"turn_id": turn_id})
    return visit.go(f"/turns/{turn_id}", "ended")


def totals(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """What a turn's steps come to."""
    calls = [step for step in steps if step["kind"] == "llm_call"]
    tools = [step for step in steps if step["kind"] == "tool_call"]
    sums = {name: sum(step[name] or 0 for step in calls) for name in ("input_tokens", "cached_tokens", "output_tokens", "cost_usd")}
    return {
        **sums,
        "llm_calls": len(calls),
        "tool_calls": len(tools),
        "llm_ms": sum(s["ms"] for s in calls),
        "tool_ms": sum(s["ms"] or 0 for s in tools),
    }


def agents(visit: Visit) -> list[str]:
    """The ids of the agents that are served here."""
    return list(visit.heavy.agents.names)
