"""Finding the rule that answers a text. Pure and without a clock of its own beyond the default of `now`.

Rules stand in the order in which they win (priority, then definition), so the lowest index of the filter's hits is the first candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from typing import Any, Literal

from common.workflow.schema import ActionKind, Flow, Skill, SystemAction, Tool
from lightweight.matching.fold import fold, original_span
from lightweight.matching.woven import Way, is_in, words_of

Action = Tool | Skill | Flow | SystemAction
_NO_GROUPS: Mapping[str, str] = {}
_NO_CONTEXT: Mapping[str, Any] = {}
# Scripts that tell a language by themselves; kana before Han, because Japanese uses both.
_SCRIPTS = (
    ("ja", re.compile("[\u3041-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff\uf900-\ufaff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A rule's `when`, ready to ask. `days` are 1 (Monday) to 7; a window that ends before it begins goes over midnight."""

    languages: tuple[str, ...] = ()
    window: tuple[time, time] | None = None
    days: tuple[int, ...] = ()
    zone: tzinfo | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def refusal(self, text: str, context: Mapping[str, Any], now: datetime | None) -> str | None:
        """Which condition does not hold, None when all do."""
        for name, value in self.context.items():
            if name not in context or context[name] != value or type(context[name]) is not type(value):
                return f"context.{name} is not {value!r}"
        if self.languages and language_of(text, context) not in self.languages:
            return f"language is not {' or '.join(self.languages)}"
        if (self.window or self.days) and not self._open(now.astimezone(self.zone) if now else datetime.now(self.zone)):
            return "outside its time window"
        return None

    def _open(self, at: datetime) -> bool:
        day = at
        if self.window:
            begin, end = self.window
            clock = at.time()
            if begin <= end:
                if not begin <= clock < end:
                    return False
            elif clock < end:
                day = at - timedelta(days=1)  # after midnight: the window opened the day before
            elif clock < begin:
                return False
        return not self.days or day.isoweekday() in self.days


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern of one action. `excludes` and `regexp` are RE2 objects; `groups` are its named groups with their numbers. `woven` is
    a pattern of words and gaps, None for one that only RE2 can look for."""

    kind: ActionKind
    action: Action
    pattern: str
    priority: int
    tier: Literal["lightweight", "heavy"]
    interrupts: bool = False
    regexp: Any = None
    groups: tuple[tuple[str, int], ...] = ()
    required: tuple[str, ...] = ()
    excludes: tuple[Any, ...] = ()
    when: Condition | None = None
    woven: tuple[Way, ...] | None = None
    simple: bool = True


@dataclass(slots=True)
class Match:
    """The rule that wins. `groups` are cut from the original text; `ambiguous` means that the agent wants the LLM to choose instead.

    A learned route takes the same form: it has no pattern, and `arguments` in place of groups.
    """

    kind: ActionKind
    action: Action
    pattern: str | None
    groups: Mapping[str, str]
    index: int
    ambiguous: bool = False
    arguments: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Verdict:
    """What became of a rule whose pattern was found: `reason` is None when it may answer, `groups` then holds what it captured."""

    rule: Rule
    index: int
    reason: str | None
    groups: Mapping[str, str]


class Matcher:
    """All rules of one workflow. Immutable after `compile_rules` has made it; safe to share.

    Where most rules are woven, RE2's filter only names the candidates, which are looked at in their turn; else it looks at all of them.
    """

    def __init__(self, rules: tuple[Rule, ...], prefilter: Any, *, escalate_ambiguous: bool = False) -> None:
        self.rules = rules
        self.has_interrupts = any(rule.interrupts for rule in rules)
        self._prefilter = prefilter  # None without rules
        self._escalate_ambiguous = escalate_ambiguous
        woven = [rule.woven for rule in rules if rule.woven]
        self._lazy = 2 * len(woven) > len(rules)
        # RE2 builds the states of an automaton when a text first leads to them. The rules' own words lead to most, so that the first
        # messages need not wait for them: 5 ms for 1 000 rules.
        for ways in woven if self._lazy else ():
            prefilter.Match(words_of(ways).encode(), True)

    def _hits(self, folded: str) -> Iterator[int]:
        """The rules whose patterns are found, in the order in which they win."""
        data = folded.encode()
        hits: Sequence[int] = (self._prefilter.Match(data, self._lazy) or ()) if self._prefilter else ()
        return self._looked_at(hits, data, folded) if hits and self._lazy else iter(hits)

    def _looked_at(self, candidates: Sequence[int], data: bytes, folded: str) -> Iterator[int]:
        """The candidates that are found; RE2 is asked once, when there is one that is not woven."""
        rules, known = self.rules, None
        for index in candidates:
            woven = rules[index].woven
            if woven is not None:
                if is_in(woven, folded):
                    yield index
                continue
            if known is None:
                known = frozenset(self._prefilter.Match(data) or ())
            if index in known:
                yield index

    def match(
        self, text: str, *, context: Mapping[str, Any] | None = None, in_conversation: bool = False, now: datetime | None = None
    ) -> Match | None:
        """The rule that answers `text`, None when no rule does. `in_conversation` leaves only rules with `interrupts`."""
        folded = fold(text)
        context = context or _NO_CONTEXT
        hits = self._hits(folded)
        for index in hits:
            rule, groups = self.rules[index], _NO_GROUPS
            if in_conversation and not rule.interrupts:
                continue
            if not rule.simple:
                reason, groups = _ask(rule, text, folded, context, now)
                if reason is not None:
                    continue
            ambiguous = self._escalate_ambiguous and _rival(rule, self._judge(hits, text, folded, context, in_conversation, now))
            return Match(rule.kind, rule.action, rule.pattern, groups, index, ambiguous)
        return None

    def verdicts(
        self, text: str, *, context: Mapping[str, Any] | None = None, in_conversation: bool = False, now: datetime | None = None
    ) -> list[Verdict]:
        """Every rule whose pattern was found, in the order in which they win, with what became of it."""
        folded = fold(text)
        return list(self._judge(self._hits(folded), text, folded, context or _NO_CONTEXT, in_conversation, now))

    def _judge(
        self, hits: Iterator[int], text: str, folded: str, context: Mapping[str, Any], in_conversation: bool, now: datetime | None
    ) -> Iterator[Verdict]:
        for index in hits:
            rule = self.rules[index]
            reason: str | None = None
            groups = _NO_GROUPS
            if in_conversation and not rule.interrupts:
                reason = "the session is in a conversation"
            elif not rule.simple:
                reason, groups = _ask(rule, text, folded, context, now)
            yield Verdict(rule, index, reason, groups)


def language_of(text: str, context: Mapping[str, Any] = _NO_CONTEXT) -> str:
    """Two letters: `context.language` where the caller knows it, else what the script tells, else `en`."""
    known = context.get("language")
    if isinstance(known, str) and known:
        return known.lower()[:2]
    if text.isascii():
        return "en"
    return next((code for code, script in _SCRIPTS if script.search(text)), "en")


def _ask(rule: Rule, text: str, folded: str, context: Mapping[str, Any], now: datetime | None) -> tuple[str | None, Mapping[str, str]]:
    for exclude in rule.excludes:
        if exclude.search(folded):
            return f"excluded by {exclude.pattern}", _NO_GROUPS
    if rule.when and (refusal := rule.when.refusal(text, context, now)):
        return refusal, _NO_GROUPS
    groups = _cut(rule, text, folded) if rule.groups else _NO_GROUPS
    for name in rule.required:
        if not groups.get(name):
            return f"group {name} is empty", _NO_GROUPS
    return None, groups


def _cut(rule: Rule, text: str, folded: str) -> dict[str, str]:
    """The named groups that took part, from the original text where it can be aligned with the folded one."""
    # Bytes where their places are those of the characters: the wrapper's own way there and back costs more than the search.
    found = rule.regexp.search(folded.encode() if folded.isascii() else folded)
    groups: dict[str, str] = {}
    for name, number in rule.groups:
        start, end = found.span(number)
        if start < 0:
            continue
        begin, stop = original_span(text, folded, start, end)
        groups[name] = text[begin:stop].strip() if begin >= 0 else folded[start:end]
    return groups


def _rival(winner: Rule, rest: Iterator[Verdict]) -> bool:
    """Whether another action of the same priority could answer as well."""
    return any(
        v.reason is None and v.rule.priority == winner.priority and (v.rule.kind, v.rule.action.id) != (winner.kind, winner.action.id)
        for v in rest
    )
