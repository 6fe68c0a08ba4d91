"""Every effect once: counted at the business API, against what was said, what was answered, and the calls in the histories."""

from __future__ import annotations

from collections import Counter, defaultdict

from loadtests.chaos.history import Effect, Said
from loadtests.chaos.scene import EFFECTIVE
from loadtests.chaos.verdict.book import Book, Violation, where

ACTING = ("open_ticket", "pay_once")


def once(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """An answered message that asks for an effect has it once (where several became one turn: at most once), any other at most once; each
    effect's key names the turn that its message belongs to."""
    violations = []
    done: dict[str, list[Effect]] = defaultdict(list)
    for effect in book.evidence.effects:
        done[effect.subject].append(effect)
    for said in book.evidence.said:
        known, effects = book.outcomes[said.marker], done.pop(said.marker, [])
        at = where(said, known.turn_id)
        if len(effects) > 1:
            violations.append(Violation("one effect", at, "at most one effect", f"keys {[e.key for e in effects]}"))
        if known.state == "answered" and len(book.together(said)) == 1:
            wanted = int(_asks(book, said))
            if len(effects) < wanted or (effects and not wanted):
                violations.append(Violation("effect", at, f"{wanted} for its answer", f"{len(effects)}"))
        for effect in effects:
            turns = {standing.turn_id for standing in book.standing(said)} | {known.turn_id or ""}
            if effect.key is None or (turns != {""} and effect.key.partition(":")[0] not in turns):
                violations.append(Violation("effect's key", at, f"a key of {sorted(turns)}", f"{effect.key}"))
            if effect.session != said.session:
                violations.append(Violation("foreign", at, f"an effect in {said.session}", effect.session))
    violations += [Violation("effect", f"subject {subject!r}", "none that nobody asked for", f"{e}") for subject, e in done.items()]
    return violations, {"effects": len(book.evidence.effects)}


def calls(book: Book) -> tuple[list[Violation], dict[str, int]]:
    """Every tool call that has a good result has its effect under its own key, once."""
    violations, made = [], 0
    keys = Counter(effect.key for effect in book.evidence.effects)
    for (tenant, session_id), session in book.sessions.items():
        named = {c["id"]: c["name"] for m in session.messages for c in m.get("tool_calls", ())}
        for message in session.messages:
            call_id = message.get("tool_call_id")
            if message["role"] == "tool" and named.get(call_id) in ACTING and "ticket_id" in message["content"]:
                made += 1
                key = f"{message['turn_id']}:{call_id}"
                if keys[key] != 1:
                    violations.append(Violation("call", f"{tenant}/{session_id} {key}", "one effect", f"{keys[key]}"))
    return violations, {"tool calls with an effect": made}


def _asks(book: Book, said: Said) -> bool:
    """Whether the answer that was given comes with an effect."""
    reply = book.outcomes[said.marker].reply or {}
    route = reply.get("route", {})
    return said.kind in EFFECTIVE or (route.get("action_type"), route.get("action_target")) == ("flow", "ticket")
