"""Tasks and batches: each has one end, all who are told are told the same, once; a batch has every item in its place."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from loadtests.chaos.history import TASK_ENDS
from loadtests.chaos.verdict.book import Book, Violation, where, without

EVENTS = {"success": "task.completed", "failure": "task.failed", "cancelled": "task.cancelled"}
BATCH_END = "batch.completed"


def told(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """The end of a task is told to its webhook under one id, and to its session in one event, and both tell what the task says."""
    violations, evidence = [], book.evidence
    messages: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for heard in evidence.heard:
        data = heard.body["data"]
        messages[heard.tenant, data.get("task_id") or data.get("batch_id")].append(heard.body)
    events: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    for session in evidence.sessions:
        for _, kind, data in session.events:
            if kind in EVENTS.values():
                events[session.tenant, data["task_id"]].append((kind, data))
    hooked = {(s.tenant, s.task_id) for s in evidence.said if s.task_id and s.hook}
    for place, task in evidence.tasks.items():
        if task["status"] not in TASK_ENDS:
            continue
        at, wanted = f"{place[0]} task {place[1]}", EVENTS[task["status"]]
        to_hook = [(body["type"], body["data"]) for body in messages.pop(place, [])]
        for name, found, count in (("webhook", to_hook, int(place in hooked)), ("event", events.get(place, []), 1)):
            if [kind for kind, _ in found] != [wanted] * count:
                violations.append(Violation(name, at, f"{count} × {wanted}", f"{[kind for kind, _ in found]}"))
            violations += [Violation(name, at, f"{task}", f"{data}") for _, data in found if not _agrees(task, data)]
    for batch in evidence.batches:
        bodies = messages.pop((batch.tenant, batch.batch_id or ""), [])
        if batch.document is not None and Counter(b["type"] for b in bodies if "task_id" not in b["data"]) != Counter(
            [BATCH_END] * batch.hook
        ):
            kinds = [b["type"] for b in bodies]
            violations.append(
                Violation("webhook", f"{batch.tenant} batch {batch.batch_id}", f"{int(batch.hook)} × {BATCH_END}", f"{kinds}")
            )
    hoped = {(s.tenant, s.session) for s in evidence.said if s.hook and s.task_id is None}  # whose task may have been taken all the same
    hoped |= {(b.tenant, "") for b in evidence.batches if b.hook and b.batch_id is None}
    for (tenant, thing), bodies in messages.items():
        ids = Counter(body["type"] for body in bodies)
        known = all((tenant, body["data"].get("session_id", "")) in hoped for body in bodies)
        if not known or max(ids.values()) > 1 or len(ids) > 1:
            violations.append(Violation("webhook", f"{tenant} {thing}", "nothing that nobody asked for", f"{bodies}"))
    again = sum(heard.times > 1 for heard in evidence.heard)
    return violations, {"tasks": len(evidence.tasks), "messages to webhooks": len(evidence.heard), "of them more than once": again}


def batched(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """A batch that was taken ends; its lines are its items in their order, a broken one with its own error; its counts are theirs."""
    violations = []
    for batch in book.evidence.batches:
        at = f"{batch.tenant} batch {batch.batch_id}"
        taken = [without(a.body, "request_id", "errors") for a in batch.attempts if a.status == 202]
        if any(body != taken[0] for body in taken):
            violations.append(Violation("repeated", at, f"{taken[0]}", f"{taken}"))
        if batch.batch_id is None:
            continue
        if batch.document is None:
            violations.append(Violation("stuck", at, "a finished batch", "one that is not"))
            continue
        if [line["index"] for line in batch.lines] != list(range(len(batch.markers))):
            violations.append(Violation("batch", at, f"{len(batch.markers)} lines in order", f"{[line['index'] for line in batch.lines]}"))
        counts = {status: count for status, count in batch.document["counts"].items() if count}
        if counts != Counter(line["status"] for line in batch.lines):
            violations.append(Violation("batch", at, f"counts {counts}", f"{[line['status'] for line in batch.lines]}"))
        for marker, line in zip(batch.markers, batch.lines, strict=False):
            if marker is None and (line["status"] != "failure" or line["error"]["code"] != "invalid_request"):
                violations.append(Violation("batch", f"{at} item {line['index']}", "a failure: it was broken", f"{line}"))
    return violations, {"batches": len(book.evidence.batches)}


def ended(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """A task that was taken and has not been recalled has run, and a task's end is that of its turn."""
    violations = []
    for said in book.evidence.said:
        task = book.evidence.tasks.get((said.tenant, said.task_id or ""))
        if said.task_id is None or task is None:
            if said.task_id is not None:
                violations.append(Violation("task", where(said), "the task", "nothing under its id"))
            continue
        if task["status"] == "cancelled" and not said.recalled and not _interrupted(book, said.tenant, said.task_id):
            violations.append(Violation("task", where(said), "an end that somebody asked for", "cancelled"))
    return violations, {}


def _interrupted(book: Book, tenant: str, task_id: str) -> bool:
    """Whether the turn was cancelled while it ran: by a message with `interrupt`."""
    turn = book.evidence.turns.get((tenant, task_id))
    return turn is not None and turn["state"] == "cancelled" and turn["started_at"] is not None


def _agrees(task: dict[str, Any], data: dict[str, Any]) -> bool:
    """Whether what was told is what the task says."""
    same = data["status"] == task["status"] and data["session_id"] == task["session_id"]
    return same and data.get("result") == task["result"] and (data.get("error") == task["error"] or task["status"] == "cancelled")
