"""The life of a hand-off to a human: begun, accepted, spoken in, overdue, released. Each step is a Note; who writes it is not known here.

    transferred ──accept──▶ accepted ──release──▶ ready        a message accepts where nobody has
         └─────────────────release──────────────────┘

`SessionRow.handoff` holds: `action` (the system action, or null), `turn_id` and `seq` of the turn that began it, `since`,
`deadline_seconds`, `deadline_message`, `accepted_by`, `accepted_at`, `told` (the user was told that nobody came in time), `released_at`,
`summary` (what the bot is told after the release). Times are Unix seconds; null is "not yet" or "none".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from common.contracts import session_events as events
from common.contracts.query import Reply, Route, Usage
from common.errors import Conflict
from common.workflow.schema import SystemAction
from heavy.llm.types import Message
from heavy.turns.rows import ArmTimer, Note, SessionEvent, SessionRow, StoredMessage, TurnRow

DEADLINE = "handoff"  # the id of the timer
MOST_SUMMARY = 4000  # characters of a summary that stands in the bot's prompts
LINE = 300  # characters of one message in a summary that no model wrote
_WITH_HUMAN = ("transferred",)
_LATE = {
    "en": "I am sorry, all my colleagues are still busy. Your messages are kept, and someone will answer as soon as possible.",
    "zh": "非常抱歉，人工客服仍在忙碌中。您的消息已保留，我们会尽快回复您。",
}


def begin(action: SystemAction | None, row: TurnRow) -> tuple[Mapping[str, Any], ArmTimer | None, tuple[SessionEvent, ...]]:
    """What the end of the turn that hands over writes: the hand-off, its deadline if the action has one, and the event."""
    target = action.id if action else None
    deadline = action.deadline_seconds if action else None
    document = {
        "action": target,
        "turn_id": row.turn_id,
        "seq": row.seq,
        "since": row.started_at or row.created_at,
        "deadline_seconds": deadline,
        "deadline_message": action.deadline_message if action else None,
        "accepted_by": None,
        "accepted_at": None,
        "told": False,
        "released_at": None,
        "summary": None,
    }
    event = SessionEvent(events.TRANSFERRED, {"session_id": row.session_id, "turn_id": row.turn_id, "action": target})
    return document, ArmTimer("handoff", DEADLINE, deadline) if deadline else None, (event,)


def accept(session: SessionRow, by: str, at: float) -> Note | None:
    """`by` takes the session; None when it is theirs already. Raises Conflict when it is with nobody's colleague, or with another one."""
    _require_transferred(session)
    holder = session.handoff.get("accepted_by")
    if holder == by:
        return None
    if holder is not None:
        raise Conflict("another colleague has accepted this session", accepted_by=holder)
    return _note(session, handoff={"accepted_by": by, "accepted_at": at}, events=[_accepted(session, by)])


def message(session: SessionRow, text: str, by: str, turn_id: str, at: float) -> Note:
    """A human says `text` to the user; where nobody has accepted the session, `by` does so with it. Raises Conflict when it is not with
    a human."""
    _require_transferred(session)
    said = _said(session, "human", text, turn_id)
    stored = _stored(session, text, turn_id, {"from": "human", "by": by})
    if session.handoff.get("accepted_by") is not None:
        return _note(session, **stored, events=[said])
    return _note(session, **stored, handoff={"accepted_by": by, "accepted_at": at}, events=[_accepted(session, by), said])


def release(session: SessionRow, summary: str | None, at: float) -> Note:
    """The session goes back to the bot, which is told `summary`. Raises Conflict when it is not with a human."""
    _require_transferred(session)
    kept = summary[:MOST_SUMMARY] if summary else None
    event = SessionEvent(events.RELEASED, {"session_id": session.session_id, "summary": kept})
    return _note(session, status="ready", handoff={"released_at": at, "summary": kept}, events=[event])


def overdue(session: SessionRow, seq: int, turn_id: str, language: Literal["en", "zh"]) -> Note | None:
    """The deadline of the hand-off that turn `seq` began has passed: the user is told, once. None when somebody came, or it is over."""
    handoff = session.handoff
    if session.status != "transferred" or handoff.get("seq") != seq or handoff.get("accepted_by") is not None or handoff.get("told"):
        return None
    text = handoff.get("deadline_message") or _LATE[language]
    stored = _stored(session, text, turn_id, {"from": "timer", "timer_id": DEADLINE})
    return _note(session, **stored, handoff={"told": True}, events=[_said(session, "timer", text, turn_id, timer_id=DEADLINE)])


def since(handoff: Mapping[str, Any], messages: Sequence[StoredMessage]) -> list[str]:
    """What was said after the hand-off, as lines of text: `user: …`, `colleague: …`, `assistant: …`."""
    begun = handoff.get("seq", 0)
    lines = []
    for stored in messages:
        spoken = stored.message
        if stored.turn_seq > begun and spoken.role in ("user", "assistant") and spoken.content.strip():
            lines.append(f"{'colleague' if spoken.author == 'human' else spoken.role}: {spoken.content}")
    return lines


def plain_summary(lines: Sequence[str]) -> str | None:
    """A summary without a model: the newest lines, each cut, as many as there is room for."""
    kept: list[str] = []
    room = MOST_SUMMARY
    for line in reversed(lines):
        short = line if len(line) <= LINE else line[:LINE] + " …"
        room -= len(short) + 1
        if room < 0:
            break
        kept.append(short)
    return "\n".join(reversed(kept)) or None


def _require_transferred(session: SessionRow) -> None:
    if session.status != "transferred":
        raise Conflict("this session is not with a human", session_status=session.status)


def _note(
    session: SessionRow,
    *,
    events: Sequence[SessionEvent],
    status: str | None = None,
    handoff: Mapping[str, Any] | None = None,
    **stored: Any,
) -> Note:
    """A note that holds only while the hand-off is the one that was read: of two who accept at once, one learns of the other."""
    changed = None if handoff is None else {**session.handoff, **handoff}
    return Note(
        tenant=session.tenant,
        session_id=session.session_id,
        statuses=_WITH_HUMAN,
        before=None if handoff is None else session.handoff,
        handoff=changed,
        session_status=status,
        events=events,
        **stored,
    )


def _stored(session: SessionRow, text: str, turn_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The turn under which a message stands in the history, as /query would have answered with it."""
    route = Route("heavy", "system", session.handoff.get("action"), "conversation")
    reply = asdict(Reply(session.session_id, text, "transferred", turn_id, route, Usage(), session.config_hash))
    return {
        "turn_id": turn_id,
        "messages": [Message("assistant", text, author=str(request["from"]))],
        "request": {"message": "", **request},
        "reply": reply,
    }


def _said(session: SessionRow, author: str, text: str, turn_id: str, **more: Any) -> SessionEvent:
    return SessionEvent(events.MESSAGE, {"session_id": session.session_id, "from": author, "text": text, "turn_id": turn_id, **more})


def _accepted(session: SessionRow, by: str) -> SessionEvent:
    return SessionEvent(events.ACCEPTED, {"session_id": session.session_id, "by": by})
