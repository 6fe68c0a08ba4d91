"""The human desk: sessions that wait for a person, what is said in one as it happens, and taking, answering and giving it back."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from common.contracts.query import check_id
from heavy.admin.frame import ROOT, Visit
from heavy.routes.handoff import MAX_BY, list_sessions, post_handoff
from heavy.routes.sessions import get_session

NAME = "loadsplit_desk_name"
SHOWN = 200
DONE = {"accept": "accepted", "message": "sent", "release": "released"}


async def desk(visit: Visit) -> Response:
    """Who waits, the longest waiting first."""
    return visit.page("desk.html", **await _waiting(visit))


async def desk_live(visit: Visit) -> Response:
    """The list alone."""
    return visit.page("desk_list.html", **await _waiting(visit))


async def desk_session(visit: Visit) -> Response:
    """One session with the forms of the desk."""
    found = await _session(visit)
    messages = [m for m in found["messages"] if _shown(m)]
    return visit.page("desk_session.html", found=found, messages=messages, last=_last(found["messages"]), by=_name(visit))


async def desk_session_live(visit: Visit) -> Response:
    """What was said since the message that ?after= names; 204 where nothing was."""
    found = await _session(visit)
    place = visit.query.get("after", "")
    new = [m for m in found["messages"] if _place(m) > place]
    if not new:
        return Response(status_code=204)
    return visit.page("desk_messages.html", found=found, messages=[m for m in new if _shown(m)], last=_last(new))


async def act(visit: Visit) -> Response:
    """Takes the session, says something in it, or gives it back."""
    session_id, form = check_id(visit.request.path_params["session_id"], "session_id"), visit.form
    action, text, by = form.get("action", ""), form.get("text", "").strip(), form.get("by", "").strip()[:MAX_BY] or _name(visit)
    body: dict[str, Any] = {"action": action, "by": by, **({"text": text} if text else {})}
    await visit.change(f"desk.{action}", post_handoff, path={"session_id": session_id}, body=body, told={"by": by})
    response = visit.go(f"/desk/{session_id}", DONE[action])
    response.set_cookie(NAME, by.encode("ascii", "ignore").decode() or "desk", path=ROOT, httponly=True, samesite="strict")
    return response


async def _waiting(visit: Visit) -> dict[str, Any]:
    found = await visit.ask(list_sessions, query={"status": "transferred", "limit": SHOWN})
    return {"sessions": found["sessions"]}


async def _session(visit: Visit) -> Any:
    session_id = check_id(visit.request.path_params["session_id"], "session_id")
    return await visit.ask(get_session, path={"session_id": session_id}, query={"include": "messages", "limit": SHOWN})


def _shown(message: dict[str, Any]) -> bool:
    return message["role"] in ("user", "assistant") and bool(message["content"])


def _place(message: dict[str, Any]) -> str:
    """Where a message stands, as text that sorts."""
    return f"{message['turn']:010d}-{message['index']:06d}"


def _last(messages: list[dict[str, Any]]) -> str:
    return max(map(_place, messages), default="")


def _name(visit: Visit) -> str:
    return visit.request.cookies.get(NAME) or visit.visitor.caller.key_id or "desk"
