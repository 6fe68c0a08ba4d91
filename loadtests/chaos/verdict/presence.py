"""Nothing acknowledged is lost or there twice, and what was said later stands later."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

from loadtests.chaos.history import Said
from loadtests.chaos.verdict.book import Book, Place, Violation, where

TAKEN = 1.0  # seconds from a message's way out to the moment in which it has its place: most of them need a hundredth of that


def present(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """Every acknowledged message is in its session's history once, any other at most once, a refused one not at all (unless it was taken
    and then cancelled). Allowed to be missing: what a rule answered without a key while Redis was away; how many that were."""
    violations, missing = [], 0
    for said in book.evidence.said:
        known, standing = book.outcomes[said.marker], book.standing(said)
        at = where(said, known.turn_id)
        if len(standing) > 1:
            violations.append(Violation("present once", at, "one message in the history", f"{len(standing)}"))
        if known.state in ("answered", "failed", "cancelled") and not standing:
            if book.by_a_rule_without_redis(said):
                missing += 1
            elif not (said.recalled and known.state == "cancelled"):  # a task that never became a turn
                violations.append(Violation("present", at, f"the message in the history, as it was {known.state}", "nothing"))
        if known.state == "refused" and standing and _state(book, said, standing[0].turn_id) != "cancelled":
            problem = (known.problem or {}).get("detail")
            violations.append(Violation("refused", at, f"nothing, as it was refused: {problem}", f"turn {standing[0].turn_id}"))
    return violations, {"rule answers without a key while Redis was away that are missing": missing}


def ordered(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """Whatever was sent when the end of another message to the same session was known stands behind that one. A rule's answer that is in
    Redis and not in the database yet when Redis goes away comes behind what is said meanwhile."""
    violations, late = [], 0
    sessions: dict[Place, list[Said]] = defaultdict(list)
    for said in book.evidence.said:
        if book.standing(said):
            sessions[said.tenant, said.session].append(said)
    for messages in sessions.values():
        ends = sorted((s for s in messages if book.outcomes[s.marker].state not in ("unknown", "refused")), key=_end(book))
        for said in messages:
            before = [e for e in ends[: bisect_left(ends, said.sent, key=_end(book))] if _index(book, e) >= _index(book, said)]
            wrong = [e for e in before if not _may_be_late(book, e, said)]
            late += bool(before and not wrong)
            violations += [
                Violation("order", where(said), f"behind {where(e)}, whose end was known", f"{_index(book, said)} and {_index(book, e)}")
                for e in wrong[-1:]
            ]
    return violations, {"rule answers recorded late, as Redis was away": late}


def _end(book: Book) -> Callable[[Said], float]:
    return lambda said: book.outcomes[said.marker].at


def _may_be_late(book: Book, ended: Said, said: Said) -> bool:
    """Whether an answer that had come could still be on its way to the database when another message was taken."""
    return book.by_a_rule(ended) and book.redis_was_away(book.outcomes[ended.marker].at - 0.5, said.sent + TAKEN)


def _index(book: Book, said: Said) -> int:
    return book.standing(said)[0].index


def _state(book: Book, said: Said, turn_id: str) -> str | None:
    state: str | None = book.evidence.turns.get((said.tenant, turn_id), {}).get("state")
    return state
