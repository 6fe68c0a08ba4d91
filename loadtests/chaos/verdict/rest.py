"""When all is quiet nothing is stuck or left over, and every history is one that a model would take."""

from __future__ import annotations

from typing import Any

from loadtests.chaos.history import Session
from loadtests.chaos.verdict.book import Book, Violation

ENDED = frozenset({"done", "failed", "cancelled"})
BROKEN_OFF = frozenset({"failed", "cancelled"})  # what the user had seen by then stands last, also behind a call without a result
FOR_EVER = frozenset({"ls:journal"})  # a queue: what is in it goes when it is acknowledged


def quiet(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """No session is busy, no turn or task active, nothing under way in any process, no key without a time to live, nothing lives on."""
    evidence = book.evidence
    violations = [Violation("quiet", "after the time to settle", "nothing going on", trouble) for trouble in evidence.troubles]
    for session in evidence.sessions:
        status = session.document["workflow_state"]["status"]
        if status == "processing":
            violations.append(Violation("stuck", f"{session.tenant}/{session.session_id}", "a session at rest", status))
    for (tenant, turn_id), turn in evidence.turns.items():
        if turn["state"] not in ENDED:
            violations.append(Violation("stuck", f"{tenant}/{turn['session_id']} turn {turn_id}", "an ended turn", turn["state"]))
    for (tenant, task_id), task in evidence.tasks.items():
        if task["status"] in ("pending", "running"):
            violations.append(Violation("stuck", f"{tenant} task {task_id}", "an ended task", task["status"]))
    violations += [Violation("idle", name, "0", f"{value:g}") for name, value in evidence.idle.items() if value]
    violations += [Violation("time to live", key, "a time to live", "none") for key in evidence.redis_keys if key not in FOR_EVER]
    violations += [Violation("left over", "after the end", "nothing", thing) for thing in evidence.left_over]
    again = sum(turn["attempt"] > 1 for turn in evidence.turns.values())
    return violations, {"sessions": len(evidence.sessions), "turns": len(evidence.turns), "turns that another attempt ended": again}


def valid(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """Each session counts its messages rightly; turns stand whole and in their order; calls of tools have one result each, behind them,
    unless their turn was broken off."""
    violations = []
    for session in book.evidence.sessions:
        at = f"{session.tenant}/{session.session_id}"
        if session.document["message_count"] != len(session.messages):
            found = f"{len(session.messages)} messages"
            violations.append(Violation("count", at, f"message_count {session.document['message_count']}", found))
        numbers = [number for number, _, _ in session.events]
        if numbers != list(range(1, session.document.get("last_event_id", 0) + 1)):
            violations.append(Violation("events", at, f"events 1 to {session.document.get('last_event_id')}", f"{numbers}"))
        places = [(m["turn"], m["index"]) for m in session.messages]
        if places != sorted(set(places)):
            violations.append(Violation("places", at, "messages in order, each place once", f"{places}"))
        for turn_id, messages in _turns(session).items():
            state = book.evidence.turns.get((session.tenant, turn_id), {}).get("state")
            violations += [Violation("history", f"{at} turn {turn_id}", *wrong) for wrong in _calls(messages, state)]
    return violations, {"messages in histories": sum(len(s.messages) for s in book.evidence.sessions)}


def _turns(session: Session) -> dict[str, list[dict[str, Any]]]:
    turns: dict[str, list[dict[str, Any]]] = {}
    for message in session.messages:
        turns.setdefault(message["turn_id"], []).append(message)
    return turns


def _calls(messages: list[dict[str, Any]], state: str | None) -> list[tuple[str, str]]:
    wrong, open_, seen = [], set[str](), set[str]()
    for message in messages:
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in open_:
                wrong.append(("a result behind its call, once", f"{call_id}"))
            open_.discard(call_id)
            continue
        said_before_its_end = message is messages[-1] and message["role"] == "assistant" and state in BROKEN_OFF
        if open_ and not said_before_its_end:
            wrong.append(("results before the next message", f"calls {sorted(open_)} without one"))
        open_ = {c["id"] for c in message.get("tool_calls", ())}
        if open_ & seen:
            wrong.append(("call ids that occur once in a turn", f"{sorted(open_ & seen)}"))
        seen |= open_
    if open_ and state == "done":
        wrong.append(("a result of each call, as the turn is done", f"calls {sorted(open_)} without one"))
    if not messages or messages[0]["role"] != "user":
        wrong.append(("a user's message first", f"{messages[:1]}"))
    return wrong
