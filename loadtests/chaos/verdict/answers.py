"""One answer each: what was told is what is stored, it answers its own message and no other, and a repeated request is told the same."""

from __future__ import annotations

from typing import Any

from loadtests.chaos.history import Said, outcome_of, told
from loadtests.chaos.verdict.book import Book, Violation, markers_in, where, without

BY_REQUEST = ("request_id",)  # members of a problem that belong to the request, not to the turn


def answered(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """The reply names its message (of several that became one: one of them) and no other, and is the result of the turn as it is stored.
    A rule's may be that of the LLM tier, which had the same request while Redis was away and died before it could tell."""
    violations, both = [], 0
    for said in book.evidence.said:
        known = book.outcomes[said.marker]
        if known.reply is None:
            continue
        at, together = where(said, known.turn_id), book.together(said)
        named = markers_in([known.reply["message"]])
        if not named or not named <= together:
            violations.append(Violation("answer", at, f"an answer to {sorted(together)}", repr(known.reply["message"])))
        if known.reply["session_id"] != said.session:
            violations.append(Violation("answer", at, f"session {said.session}", known.reply["session_id"]))
        turn = book.turn(said)
        if turn is None:
            if not book.by_a_rule_without_redis(said):
                violations.append(Violation("stored", at, "the turn", "nothing under its id"))
        elif turn["state"] != "done" or turn["result"] != known.reply:
            if said.key and turn["result"] and _by_the_other_tier(turn["result"], known.reply) and book.redis_was_away(said.sent, known.at):
                both += 1
                continue
            violations.append(Violation("stored", at, f"done, {known.reply}", f"{turn['state']}, {turn['result'] or turn['error']}"))
    return violations, {"rule answers of both tiers under a key, after Redis was away": both}


def ended(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """What was told to have failed or been cancelled has; and no reply was a fault of the server's own or of the request."""
    violations, counts = [], {"failed": 0, "cancelled": 0, "refused": 0, "unknown": 0, "answered": 0}
    for said in book.evidence.said:
        known, turn = book.outcomes[said.marker], book.turn(said)
        counts[known.state] += 1
        at, problem = where(said, known.turn_id), known.problem or {}
        if problem.get("code") == "internal" or (known.state == "refused" and problem.get("code") != "session_busy"):
            violations.append(Violation("problem", at, "no such problem", f"{problem}"))
        differs = turn is not None and (turn["state"] != "failed" or without(turn["error"], *BY_REQUEST) != without(problem, *BY_REQUEST))
        if known.state == "failed" and turn is not None and differs:
            violations.append(Violation("stored", at, f"failed, {problem}", f"{turn['state']}, {turn['error'] or turn['result']}"))
        if known.state == "cancelled" and turn is not None and turn["state"] != "cancelled":
            violations.append(Violation("stored", at, "cancelled", turn["state"]))
    return violations, {f"messages {state}": count for state, count in counts.items()}


def repeated(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """All that was said under one key is the same, and from the second time on it is told as a repetition. When Redis is back, not
    every process knows it at once, and the LLM tier has not told which keys it had: both may give a rule's answer, in the same words."""
    violations, repeats, twice = [], 0, 0
    for said in book.evidence.said:
        finals = sorted((a for a in said.attempts if a.final), key=lambda a: a.ended)
        if said.key is None or len(finals) < 2:
            continue
        kept = [a for a in finals if outcome_of(a).state != "refused"]  # what was refused before it began is not kept
        repeats += max(0, len(kept) - 1)
        for attempt in kept[1:]:
            first, again = ((kind, without(data, *BY_REQUEST)) for kind, data in (told(kept[0]), told(attempt)))
            same = _same(first, again)
            complete = first[0] == again[0] == "complete"
            if not same and complete and _by_the_other_tier(first[1], again[1]) and book.redis_was_away(said.sent, attempt.began):
                twice += 1
                continue
            if not same:
                violations.append(Violation("repeated", where(said), f"{first}", f"{again}"))
            if attempt.door in ("query", "stream") and attempt.began > kept[0].ended and not attempt.replayed:
                violations.append(Violation("repeated", where(said), "Idempotent-Replayed: true", f"none on a reply of {attempt.status}"))
    return violations, {"replies under a key that had one": repeats, "rule answers given twice under a key, after Redis was away": twice}


def _by_the_other_tier(first: Any, again: Any) -> bool:
    """Whether it is the same answer of the same turn, given by the other tier."""
    same = all(first[name] == again[name] for name in ("message", "turn_id", "session_id"))
    return same and {first["route"]["tier"], again["route"]["tier"]} == {"lightweight", "heavy"}


def _same(first: tuple[str, object], again: tuple[str, object]) -> bool:
    if first[0] == again[0] == "cancelled":  # a stream tells the reason, a reply that it was cancelled
        return True
    return first == again


def foreign(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """No message, answer or event of one session holds anything of another, and the other tenant's things do not exist."""
    violations, looked = [], 0
    for (tenant, session_id), session in book.sessions.items():
        for message in session.messages:
            for marker in markers_in([message]):
                of = book.by_marker.get(marker)
                if of is None or (of.tenant, of.session) != (tenant, session_id):
                    violations.append(Violation("foreign", f"{tenant}/{session_id}", "its own messages", f"{marker} in {message}"))
    for said in book.evidence.said:
        for attempt in said.attempts:
            for marker in markers_in([attempt.body, attempt.events]) - {said.marker}:
                of = book.by_marker.get(marker)
                if of is None or (of.tenant, of.session) != (said.tenant, said.session):
                    violations.append(Violation("foreign", where(said), "nothing of other sessions", f"{marker} in a reply"))
    for asked in book.evidence.strangers:
        looked += 1
        code = asked.body.get("code") if isinstance(asked.body, dict) else None
        if asked.status != asked.expected or (asked.expected == 404 and code != "not_found"):
            violations.append(
                Violation("foreign", f"{asked.tenant} asks {asked.what}", f"{asked.expected}", f"{asked.status} {asked.body}")
            )
    return violations, {"requests for another tenant's things": looked}


def own_words(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """Every message of a turn speaks of what its user said and nothing else, and a turn has at most one final answer."""
    violations = []
    for (tenant, session_id), session in book.sessions.items():
        asked: dict[str, set[str]] = {}
        answers: dict[str, int] = {}
        for message in session.messages:
            turn_id, found = message["turn_id"], markers_in([message])
            if message["role"] == "user":
                asked.setdefault(turn_id, set()).update(found)
            elif not found <= asked.get(turn_id, set()):
                violations.append(Violation("own words", f"{tenant}/{session_id} turn {turn_id}", f"{asked.get(turn_id)}", f"{message}"))
            if message["role"] == "assistant" and not message.get("tool_calls"):
                answers[turn_id] = answers.get(turn_id, 0) + 1
        violations += [
            Violation("one answer", f"{tenant}/{session_id} turn {turn_id}", "one final answer", f"{count}")
            for turn_id, count in answers.items()
            if count > 1
        ]
    return violations, {}


def all_known(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """What has a key has an end: whoever repeats such a request long enough learns what became of it."""

    def open_(said: Said) -> bool:
        return said.key is not None and book.outcomes[said.marker].state == "unknown"

    last = [(s, s.attempts[-1]) for s in book.evidence.said if open_(s) and s.attempts]
    return [Violation("known", where(s), "a definite reply in the end", f"{a.status} {a.body or a.broken}") for s, a in last], {}
