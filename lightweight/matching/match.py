"""Finding the rule that answers a text. Pure and without a clock of its own beyond the default of `now`.

Rules stand in the order in which they win (priority, then definition), so the lowest index of the filters' hits is the first candidate.
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
Filtered = tuple[Any, tuple[int, ...]]
_NO_FILTER: Filtered = (None, ())
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

    Two RE2 filters, each with the rules' indices by its own: of `plain` rules (woven ones) only the candidates are asked for, and looked
    at in their turn; of `other` ones RE2 says which are found. None is a filter without rules.
    """

    def __init__(
        self,
        rules: tuple[Rule, ...],
        plain: Filtered | None = None,
        other: Filtered | None = None,
        *,
        escalate_ambiguous: bool = False,
    ) -> None:
        self.rules = rules
        self.has_interrupts = any(rule.interrupts for rule in rules)
        self._plain, self._plain_rules = plain or _NO_FILTER
        self._other, self._other_rules = other or _NO_FILTER
        self._escalate_ambiguous = escalate_ambiguous
        self._warm()

    def _warm(self) -> None:
        """RE2 builds the states of an automaton when a text first leads to them. The rules' own words lead to most, so the first messages
        need not wait for them: 5 ms for 1 000 rules."""
        for index in self._plain_rules:
            self._plain.Match(words_of(self.rules[index].woven or ()).encode(), True)

    def _candidates(self, folded: str) -> Sequence[int]:
        """The rules whose patterns may be found, in the order in which they win: those of other forms are, a woven one is to be looked
        at."""
        data = folded.encode()
        plain: Sequence[int] = (self._plain.Match(data, True) or ()) if self._plain else ()
        if not self._other:
            return plain  # all rules are woven: theirs are the indices of the filter
        others = self._other.Match(data) or ()
        return sorted([*map(self._plain_rules.__getitem__, plain), *map(self._other_rules.__getitem__, others)])

    def match(
        self, text: str, *, context: Mapping[str, Any] | None = None, in_conversation: bool = False, now: datetime | None = None
    ) -> Match | None:
        """The rule that answers `text`, None when no rule does. `in_conversation` leaves only rules with `interrupts`."""
        folded = fold(text)
        context = context or _NO_CONTEXT
        candidates = self._candidates(folded)
        for place, index in enumerate(candidates):
            rule, groups = self.rules[index], _NO_GROUPS
            if (rule.woven and not is_in(rule.woven, folded)) or (in_conversation and not rule.interrupts):
                continue
            if not rule.simple:
                reason, groups = _ask(rule, text, folded, context, now)
                if reason is not None:
                    continue
            ambiguous = self._escalate_ambiguous and _rival(
                rule, self._judge(candidates[place + 1 :], text, folded, context, in_conversation, now)
            )
            return Match(rule.kind, rule.action, rule.pattern, groups, index, ambiguous)
        return None

    def verdicts(
        self, text: str, *, context: Mapping[str, Any] | None = None, in_conversation: bool = False, now: datetime | None = None
    ) -> list[Verdict]:
        """Every rule whose pattern was found, in the order in which they win, with what became of it."""
        folded = fold(text)
        return list(self._judge(self._candidates(folded), text, folded, context or _NO_CONTEXT, in_conversation, now))

    def _judge(
        self, candidates: Sequence[int], text: str, folded: str, context: Mapping[str, Any], in_conversation: bool, now: datetime | None
    ) -> Iterator[Verdict]:
        for index in candidates:
            rule = self.rules[index]
            if rule.woven and not is_in(rule.woven, folded):
                continue
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
