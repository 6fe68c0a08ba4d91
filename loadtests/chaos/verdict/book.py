"""The evidence with everything looked up once: which message stands where, what became of it, when Redis was away. Judges nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadtests.chaos.history import Evidence, Outcome, Said, Session, outcome
from loadtests.chaos.scene import MARKER

# How long after Redis answers again a process may go on without it: it looks every 0.5 s, each look may take 0.3 s, a reply that never
# comes 0.3 s more; the rest is for a machine on which everything is late.
MARGIN = 2.0
TIERS = ("lightweight", "heavy", "worker")
Place = tuple[str, str]  # tenant and session


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be: the rule, where, what was expected, what was found."""

    rule: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: expected {self.expected}; found {self.found}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A user's message in a history: its place in the session, the turn that it belongs to, and every marker in it."""

    index: int
    turn_id: str
    markers: tuple[str, ...]


class Book:
    """Evidence, indexed."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.sessions: dict[Place, Session] = {(s.tenant, s.session_id): s for s in evidence.sessions}
        self.by_marker: dict[str, Said] = {s.marker: s for s in evidence.said}
        self.standings: dict[tuple[Place, str], list[Standing]] = defaultdict(list)
        for place, session in self.sessions.items():
            for index, message in enumerate(session.messages):
                if message["role"] == "user":
                    markers = tuple(MARKER.findall(message["content"]))
                    for marker in dict.fromkeys(markers):
                        self.standings[place, marker].append(Standing(index, message["turn_id"], markers))

    @cached_property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What became of each message, by marker."""
        return {said.marker: outcome(said) for said in self.evidence.said}

    def standing(self, said: Said) -> list[Standing]:
        """Where the message stands in the history of its session: once, if all is well."""
        return self.standings.get(((said.tenant, said.session), said.marker), [])

    def together(self, said: Said) -> frozenset[str]:
        """The markers of the turn that the message is in: its own, and those of messages that became one with it."""
        return frozenset(marker for standing in self.standing(said) for marker in standing.markers) | {said.marker}

    def turn(self, said: Said) -> dict[str, Any] | None:
        """The document of the turn that answered."""
        turn_id = self.outcomes[said.marker].turn_id
        return self.evidence.turns.get((said.tenant, turn_id)) if turn_id else None

    def redis_was_away(self, began: float, ended: float) -> bool:
        """Whether Redis was away, for somebody, at some time between these two."""
        return any(window_began <= ended and began <= window_ended + MARGIN for window_began, window_ended in self.away)

    @cached_property
    def away(self) -> list[tuple[float, float]]:
        """When Redis was away. A process that was frozen meanwhile goes on without it until some time after its own thaw."""
        frozen = [f for f in self.evidence.faults if f.kind == "freeze" and f.target.startswith(TIERS)]
        found = []
        for window in self.evidence.redis_away:
            ends = [f.ended for f in frozen if f.began <= window.ended + MARGIN and window.began <= f.ended]
            found.append((window.began, max([window.ended, *ends])))
        return found

    def by_a_rule(self, said: Said) -> bool:
        """Whether the rule tier has answered, or begun to."""
        reply = self.outcomes[said.marker].reply
        if reply is not None:
            return bool(reply["route"]["tier"] == "lightweight")
        return any(attempt.tier == "lightweight" and attempt.status == 200 for attempt in said.attempts)

    def by_a_rule_without_redis(self, said: Said) -> bool:
        """Whether a rule answered without a key while Redis was away: such an answer is counted and not recorded, or recorded late."""
        if said.key is not None or not self.by_a_rule(said):
            return False
        return any(self.redis_was_away(a.ended - 0.5, a.ended) for a in said.attempts if a.events or a.final)


def where(said: Said, turn_id: str | None = None) -> str:
    """A message in words."""
    turn = turn_id or said.turn_id
    return (
        f"{said.tenant}/{said.session} {said.marker} ({said.kind}, {said.mode}, {said.on_busy}{', keyed' if said.key else ''}) turn {turn}"
    )


def without(document: Any, *names: str) -> Any:
    """A document without these members."""
    return {k: v for k, v in document.items() if k not in names} if isinstance(document, Mapping) else document


def markers_in(things: Iterable[Any]) -> set[str]:
    """Every marker in some JSON."""
    return {marker for thing in things for marker in MARKER.findall(json.dumps(thing))}
