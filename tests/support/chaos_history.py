"""A small history of a chaos run in which all is well, made by hand; tests of the verdict put one thing in it wrong."""

from __future__ import annotations

from typing import Any

from loadtests.chaos.history import Attempt, Batch, Effect, Evidence, Found, Heard, Replay, Said, Session
from loadtests.chaos.scene import marker, message
from loadtests.chaos.verdict.judge import judge

SESSION = "own-1"


def reply(number: int, text: str, target: str, tier: str = "heavy", kind: str = "flow") -> dict[str, Any]:
    """The reply to message `number`."""
    route = {"tier": tier, "action_type": kind, "action_target": target, "matched_by": "rule", "pattern": None}
    return {"session_id": SESSION, "message": text, "status": "success", "turn_id": turn_id(number), "route": route}


def turn_id(number: int) -> str:
    """The turn of message `number`."""
    return f"t_{number}"


def said(number: int, kind: str, sent: float, *attempts: Attempt, tenant: str = "amber", **more: Any) -> Said:
    """A message of client 0."""
    fields: dict[str, Any] = {"mode": "query", "on_busy": "enqueue", "key": None, "turn_id": turn_id(number), **more}
    return Said(marker(number), 0, tenant, SESSION, kind, text=message(kind, number), sent=sent, attempts=list(attempts), **fields)


def answered(began: float, body: dict[str, Any], **more: Any) -> Attempt:
    """A whole reply, half a second later."""
    return Attempt("query", began, began + 0.5, 200, body=body, final=True, **more)


def words(number: int, place: int, *texts: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    """The messages of a turn: (role, content) each."""
    return [
        {"turn": place, "turn_id": turn_id(number), "index": index, "role": role, "content": content, "at": 0.0, **more}
        for index, (role, content) in enumerate(texts)
    ]


def history() -> Evidence:
    """Five messages of one session (a rule, a stream that was read on, a skill with an effect, one that was cancelled, a task in a batch of
    two, the other of which was broken) and one of the other tenant in a session of the same name."""
    m1, m2, m3 = marker(1), marker(2), marker(3)
    hours = reply(1, f"We open at 9, {m1}.", "hours", "lightweight")
    plain = reply(2, f"You asked for {m2}.", "", kind="message")
    booked = reply(3, f"Let me see.\n\nBooked {m3} for you.", "desk", kind="skill")
    start = {"turn_id": turn_id(2), "session_id": SESSION, "config_hash": "c"}
    events = [
        (1, "start", start), (2, "route", plain["route"]), (3, "text", {"delta": "You asked "}),
        (4, "text", {"delta": f"for {m2}."}), (5, "complete", plain),
    ]  # fmt: skip
    other = {**reply(5, f"We open at 9, {marker(5)}.", "hours"), "turn_id": turn_id(5)}
    call = {"id": "c1", "name": "open_ticket", "arguments": "{}"}
    skill = words(3, 3, ("user", message("skill", 3)), ("assistant", "Let me see."), ("tool", f'{{"ticket_id": "T1", "subject": "{m3}"}}'))
    skill[1]["tool_calls"], skill[2]["tool_call_id"] = [call], "c1"
    skill.append({**skill[0], "index": 3, "role": "assistant", "content": f"Booked {m3} for you."})
    mine = [
        *words(1, 1, ("user", message("rule", 1)), ("assistant", hours["message"])),
        *words(2, 2, ("user", message("plain", 2)), ("assistant", plain["message"])),
        *skill,
        *words(4, 4, ("user", message("plain", 4))),
        *words(6, 5, ("user", message("plain", 6)), ("assistant", f"You asked for {marker(6)}.")),
    ]
    theirs = words(5, 1, ("user", message("rule", 5)), ("assistant", other["message"]))
    asked = reply(6, f"You asked for {marker(6)}.", "", kind="message")
    line = {"index": 0, "task_id": turn_id(6), "session_id": SESSION, "status": "success", "result": asked, "error": None}
    broken = {**line, "index": 1, "task_id": "t_x", "status": "failure", "result": None, "error": {"code": "invalid_request"}}
    end = {"session_id": SESSION, "task_id": turn_id(6), "status": "success", "batch_id": "b_1", "result": asked}
    taken = Attempt("async", 6.0, 6.1, 202, body={"batch_id": "b_1", "total": 2, "accepted": 1, "rejected": 1, "errors": []})
    counts = {"status": "finished", "counts": {"success": 1, "failure": 1, "pending": 0, "running": 0, "cancelled": 0}}
    gone = {"title": "The turn was cancelled", "code": "session_busy", "turn_id": turn_id(4)}
    return Evidence(
        said=[
            said(1, "rule", 1.0, answered(1.0, hours), answered(2.0, hours, replayed=True), key="order 1"),
            said(
                2, "plain", 3.0,
                Attempt("stream", 3.0, 3.2, 200, "dropped by the client", events=events[:3], reader=1),
                Attempt("resume", 3.3, 3.5, 200, events=events[3:], after=3, reader=1, final=True),
                mode="drop",
            ),
            said(3, "skill", 4.0, answered(4.0, booked)),
            said(4, "plain", 5.0, Attempt("query", 5.0, 5.5, 409, body=gone, final=True), on_busy="interrupt"),
            said(
                6, "plain", 6.0, Attempt("task", 6.0, 7.0, 200, body=line, final=True), mode="batch", task_id=turn_id(6), hook=True
            ),
            said(5, "rule", 1.0, answered(1.0, other), tenant="birch", key="order 1"),
        ],
        sessions=[session("amber", mine, [(1, "task.completed", end)]), session("birch", theirs)],
        turns={
            ("amber", turn_id(1)): turn("done", hours),
            ("amber", turn_id(2)): turn("done", plain),
            ("amber", turn_id(3)): turn("done", booked, attempt=2),
            ("amber", turn_id(4)): turn("cancelled", None),
            ("amber", turn_id(6)): turn("done", asked),
            ("birch", turn_id(5)): turn("done", other),
        },
        tasks={("amber", turn_id(6)): {**line, "batch_id": "b_1"}},
        batches=[Batch(0, "amber", None, [marker(6), None], True, "b_1", [taken], counts, [line, broken])],
        heard=[
            Heard("amber", "msg_1", {"type": "task.completed", "timestamp": "", "data": end}),
            Heard("amber", "msg_2", {"type": "batch.completed", "timestamp": "", "data": {"batch_id": "b_1", "total": 2, "rejected": 1}}),
        ],
        effects=[Effect(1, "/tickets", f"{turn_id(3)}:c1", m3, SESSION)],
        replays=[Replay("amber", turn_id(2), 200, events)],
        strangers=[Found("birch", "GET /api/v1/turns/t_1", 404, 404, {"code": "not_found"})],
        idle={"heavy-1 turns_inflight": 0.0},
        redis_keys=["ls:journal"],
    )  # fmt: skip


def session(tenant: str, messages: list[dict[str, Any]], events: list[tuple[int, str, Any]] | None = None) -> Session:
    """A session at rest."""
    document = {"message_count": len(messages), "workflow_state": {"status": "ready"}, "last_event_id": len(events or [])}
    return Session(tenant, SESSION, document, messages, events or [])


def turn(state: str, result: dict[str, Any] | None, attempt: int = 1) -> dict[str, Any]:
    """A turn's document."""
    return {"state": state, "result": result, "error": None, "attempt": attempt, "session_id": SESSION, "started_at": 1.0}


def rules(evidence: Evidence) -> set[str]:
    """The rules that a history breaks."""
    return {violation.rule for violation in judge(evidence).violations}
