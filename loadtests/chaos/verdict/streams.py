"""Streams: numbers without gap or repeat, one end, text that makes the answer; the same when it is told again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from loadtests.chaos.history import TERMINAL, Attempt, Said
from loadtests.chaos.verdict.book import Book, Violation, where, without

Event = tuple[int, str, Any]


def streamed(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """What each reader got, over all the times it came back, is one stream. Where Redis was away in the turn's time, the tool calls and the
    pieces of the text may have been lost with the node that ran it: then numbers and end must be right, the text need not be whole."""
    violations, retold, resumed = [], 0, 0
    for said in book.evidence.said:
        for attempts in readers(said).values():
            resumed += len(attempts) > 1
            at = where(said)
            violations += [Violation("stream", at, expected, found) for expected, found in _numbers(attempts)]
            events = [event for attempt in attempts for event in attempt.events]
            wrong = _told(events)
            if wrong and book.redis_was_away(said.sent, attempts[-1].ended):
                retold += 1
                continue
            violations += [Violation("stream", at, expected, found) for expected, found in wrong]
    return violations, {"streams that were read on": resumed, "streams told without all of their text, after Redis was away": retold}


def replayed(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """A turn's stream from the beginning, after the run: the numbers, and what its readers had seen."""
    violations, retold = [], 0
    seen: dict[tuple[str, str], tuple[Said, list[Event]]] = {}
    for reader in book.evidence.said:
        for attempts in readers(reader).values():
            told = [event for attempt in attempts for event in attempt.events]
            if told and told[0][1] == "start":
                place = (reader.tenant, told[0][2]["turn_id"])
                if place not in seen or len(seen[place][1]) < len(told):
                    seen[place] = (reader, told)
    for replay in book.evidence.replays:
        found = seen.get((replay.tenant, replay.turn_id))
        said: Said | None = found[0] if found else None
        events = found[1] if found else []
        at = where(said, replay.turn_id) if said else f"{replay.tenant} turn {replay.turn_id}"
        if replay.status != 200:
            if not (replay.status == 404 and said and book.by_a_rule_without_redis(said)):
                violations.append(Violation("replay", at, "the stream again", f"status {replay.status}"))
            continue
        numbers = [number for number, _, _ in replay.events]
        if numbers != list(range(1, len(numbers) + 1)) or not numbers or replay.events[-1][1] not in TERMINAL:
            violations.append(Violation("replay", at, "events 1 to n and an end", f"{_short(replay.events)}"))
        elif replay.events[: len(events)] != events:
            if said and book.redis_was_away(said.sent, said.attempts[-1].ended):
                retold += 1
            else:
                violations.append(Violation("replay", at, f"what was seen: {_short(events)}", _short(replay.events)))
    return violations, {"streams replayed": len(book.evidence.replays), "streams replayed from the database alone": retold}


def readers(said: Said) -> dict[int, list[Attempt]]:
    """The attempts of each reader that brought events."""
    found: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in said.attempts:
        if attempt.events:
            found[attempt.reader].append(attempt)
    return found


def _numbers(attempts: Sequence[Attempt]) -> list[tuple[str, str]]:
    """Gaps and repeats: each attempt goes on behind the last event of the one before."""
    wrong, last = [], 0
    for attempt in attempts:
        numbers = [number for number, _, _ in attempt.events]
        if numbers != list(range(last + 1, last + 1 + len(numbers))):
            wrong.append((f"events from {last + 1} on without a gap", f"{numbers}"))
        last = numbers[-1]
    kinds = [kind for attempt in attempts for _, kind, _ in attempt.events]
    ends = [kind for kind in kinds if kind in TERMINAL]
    if len(ends) > 1 or (ends and kinds[-1] not in TERMINAL):
        wrong.append(("one terminal event, the last", f"{kinds}"))
    return wrong


def _told(events: Sequence[Event]) -> list[tuple[str, str]]:
    """What a whole stream says: a beginning, and text that makes the answer."""
    kinds = [kind for _, kind, _ in events]
    wrong = []
    if kinds[0] != "start" or kinds.count("start") > 1 or kinds.count("route") > 1:
        wrong.append(("one start, first, and one route", f"{kinds}"))
    if kinds[-1] == "complete":
        text = "".join(data["delta"] for _, kind, data in events if kind == "text")
        if text != events[-1][2]["message"]:
            wrong.append((f"deltas that make {events[-1][2]['message']!r}", f"{text!r}"))
    return wrong


def _short(events: Sequence[Event]) -> str:
    return str([(number, kind, without(data, "usage", "route", "config_hash")) for number, kind, data in events])[:1500]
