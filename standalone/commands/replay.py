"""Past messages against the rules of two versions of a workflow: what would be routed otherwise. It calls nothing.

A log is JSON lines of {"message", "context"?, "session_id"?}. Each message is routed as in a session that is ready: whether an LLM had a
conversation going is not in the log.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lightweight.matching.match import Matcher

EXAMPLES = 3  # of each change
MAX_LINE = 1 << 20
Change = Literal["newly_answered", "no_longer_answered", "moved", "groups"]
_CHANGES: tuple[Change, ...] = ("newly_answered", "no_longer_answered", "moved", "groups")


class LogInvalid(ValueError):
    """A line of the log is no message; it says which."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the log, with its line."""

    line: int
    message: str
    context: dict[str, Any] = field(default_factory=dict)
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a message goes by rule; `action_type` is None where no rule answers and the LLM decides."""

    tier: str = "heavy"
    action_type: str | None = None
    action_target: str | None = None
    groups: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "no rule" if self.action_type is None else f"{self.action_type} {self.action_target}"


@dataclass(slots=True)
class Moved:
    """All messages that went one way and now go another: how many, in how many sessions, and some of them."""

    change: Change
    before: str
    after: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Replayed:
    """The replay of a log. `answered` counts messages by the action that a rule chose; `before` likewise, None without an old version."""

    messages: int = 0
    sessions: int = 0
    sessions_touched: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    before: Counter[str] | None = None
    moved: list[Moved] = field(default_factory=list)

    def changes(self) -> dict[str, int]:
        """How many messages changed in which way."""
        counted: Counter[str] = Counter()
        for moved in self.moved:
            counted[moved.change] += moved.count
        return {change: counted[change] for change in _CHANGES}

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `--json`."""
        doc: dict[str, Any] = {
            "messages": self.messages,
            "answered_by_rule": sum(self.answered.values()),
            "by_action": _sorted(self.answered),
        }
        if self.before is not None:
            doc |= {
                "answered_by_rule_before": sum(self.before.values()),
                "by_action_before": _sorted(self.before),
                "sessions": self.sessions,
                "sessions_touched": self.sessions_touched,
                "changes": self.changes(),
                "moved": [
                    {"change": m.change, "before": m.before, "after": m.after, "count": m.count, "examples": m.examples} for m in self.moved
                ],
            }
        return doc


def read_log(path: Path) -> Iterator[Said]:
    """The messages of a file of JSON lines; empty lines are left out. Raises LogInvalid at the first line that is none, OSError."""
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if raw.strip():
                yield _said(raw, number, path)


def replay(said: Iterable[Said], new: Matcher, old: Matcher | None = None, now: datetime | None = None) -> Replayed:
    """Routes every message through the new rules and, where given, the old ones. `now` is the moment that `when` windows see."""
    now = now or datetime.now(UTC)
    result = Replayed(before=None if old is None else Counter())
    ways: dict[tuple[Change, str, str], Moved] = {}
    sessions: set[str] = set()
    touched: set[str] = set()
    for one in said:
        result.messages += 1
        after = route(new, one, now)
        if after.action_type:
            result.answered[str(after)] += 1
        if old is None or result.before is None:
            continue
        session = one.session_id or f"\0{one.line}"
        sessions.add(session)
        before = route(old, one, now)
        if before.action_type:
            result.before[str(before)] += 1
        change = _change(before, after)
        if change:
            touched.add(session)
            moved = ways.setdefault((change, str(before), str(after)), Moved(change, str(before), str(after)))
            moved.count += 1
            if len(moved.examples) < EXAMPLES and all(e["message"] != one.message for e in moved.examples):
                moved.examples.append(_example(one, before, after))
    result.sessions, result.sessions_touched = len(sessions), len(touched)
    result.moved = sorted(ways.values(), key=lambda m: (_CHANGES.index(m.change), -m.count, m.before, m.after))
    return result


def route(matcher: Matcher, said: Said, now: datetime) -> Route:
    """Where the rules send a message."""
    match = matcher.match(said.message, context=said.context, now=now)
    if match is None or match.ambiguous:
        return Route()
    return Route(matcher.rules[match.index].tier, match.kind, match.action.id, tuple(sorted(match.groups.items())))


def _change(before: Route, after: Route) -> Change | None:
    if before == after:
        return None
    if before.action_type is None:
        return "newly_answered"
    if after.action_type is None:
        return "no_longer_answered"
    if (before.action_type, before.action_target, before.tier) != (after.action_type, after.action_target, after.tier):
        return "moved"
    return "groups"


def _example(said: Said, before: Route, after: Route) -> dict[str, Any]:
    example: dict[str, Any] = {"line": said.line, "message": said.message}
    if said.session_id:
        example["session_id"] = said.session_id
    if before.action_type and after.action_type and before.groups != after.groups:
        example |= {"groups_before": dict(before.groups), "groups": dict(after.groups)}
    return example


def _said(raw: bytes, number: int, path: Path) -> Said:
    where = f"{path}:{number}"
    if len(raw) > MAX_LINE:
        raise LogInvalid(f"{where}: the line is longer than {MAX_LINE} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise LogInvalid(f'{where}: not JSON; a log has lines such as {{"message": "where is my order"}}') from None
    message = value.get("message") if isinstance(value, dict) else None
    if not isinstance(message, str):
        raise LogInvalid(f'{where}: an object with a text under "message" is wanted')
    if any("\ud800" <= char <= "\udfff" for char in message):
        raise LogInvalid(f"{where}: the message holds half of a surrogate pair")
    context, session_id = value.get("context") or {}, value.get("session_id")
    if not isinstance(context, dict):
        raise LogInvalid(f'{where}: "context" must be an object')
    return Said(number, message, context, None if session_id is None else str(session_id))


def _sorted(counted: Counter[str]) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
