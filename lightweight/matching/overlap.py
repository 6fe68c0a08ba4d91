"""Rules of different actions that are found in one text, and rules that never answer because others do. Shown by example, not proved.

Example texts of every rule, and texts that people wrote, go through the whole matcher: whoever else is found there overlaps. So the cost
grows with the number of rules, not of pairs. Conditions (`when`) are compared, not asked: they depend on the moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from common.workflow.schema import When, Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.fold import fold
from lightweight.matching.match import Matcher, Rule
from lightweight.matching.samples import example_texts

MAX_WORK = 300_000  # texts tried and rules found in them, over all; a few seconds
SAMPLES, FEWEST_SAMPLES = 16, 3  # of each rule, fewer where there are many rules
DOUBT_SAMPLES, MOST_SAMPLES = 40, 400  # of a rule that seems to be shadowed, and one for each of its alternatives
ENOUGH = 4  # texts that a rule must have lost before it counts as shadowed, unless it has no others
_LOOKED_AT = 12  # rules found in one text
_MAX_MERGES = 4_000
_TOKEN = re.compile(r"[\u3400-\u9fff]{2}|[^\W\u3400-\u9fff]{3,}")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two rules of equal priority and different actions that both may answer `text`; numbers are indices of `Matcher.rules`."""

    winner: int
    loser: int
    text: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """A rule that lost every one of the `tried` texts it was found in, to the rules `winners`; `text` is one of them."""

    rule: int
    winners: tuple[int, ...]
    text: str
    tried: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A rule that was found in all `tried` texts and might answer none of them, for `reason`: its own excludes or required groups."""

    rule: int
    reason: str
    text: str
    tried: int


@dataclass(slots=True)
class Overlaps:
    """What was found. An overlap is told once for a pair of actions. `complete` is False when the work grew too much to finish."""

    overlaps: list[Overlap] = field(default_factory=list)
    shadows: list[Shadow] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    complete: bool = True


def find_overlaps(workflow: Workflow, matcher: Matcher, said: Iterable[str] = (), *, max_work: int = MAX_WORK) -> Overlaps:
    """The overlaps and shadows among the workflow's rules. `matcher` is the workflow's; `said` are real messages to try as well."""
    search = _Search(workflow, matcher, max_work)
    try:
        search.run(said)
    except _WorkSpent:
        search.found.complete = False
    shadowed = {shadow.rule for shadow in search.found.shadows}
    search.found.overlaps = [o for o in search.pairs.values() if o.loser not in shadowed]
    return search.found


class _WorkSpent(Exception):
    """The search has done as much as it may."""


@dataclass(slots=True)
class _Trial:
    """How a rule fared with texts of its own."""

    found: int = 0
    lost: int = 0
    missed_bare: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Text → why the rule, though found in it, may not answer."""
    winners: dict[int, None] = field(default_factory=dict)
    text: str = ""
    bare: str = ""


class _Search:
    """One search: its matcher without conditions, the pairs seen, the work left."""

    def __init__(self, workflow: Workflow, matcher: Matcher, max_work: int) -> None:
        self.rules = matcher.rules  # in the order in which they win
        conditional = any(rule.when for rule in self.rules)
        self._matcher = compile_rules(_unconditional(workflow)) if conditional else matcher
        self._settled = workflow.ambiguous == "escalate"  # equal priorities hand over to the LLM: meant so
        self._left = max_work
        self._reasons: dict[int, str] = {}  # of the last text: the rules that may not answer it
        self.pairs: dict[tuple[tuple[str, str], tuple[str, str]], Overlap] = {}
        self.found = Overlaps()

    def run(self, said: Iterable[str]) -> None:
        for text in said:
            self._note(self._able(text), text)
        count = max(FEWEST_SAMPLES, min(SAMPLES, self._left // (10 * (len(self.rules) or 1))))
        trials = [self._try(i, _Trial(), 0, count) for i in range(len(self.rules))]
        for text in _merged([trial.bare for trial in trials]):
            self._note(self._able(text), text)
        for i, trial in enumerate(trials):
            if not trial.found and len(trial.refused) >= min(ENOUGH, count - 1):
                text, reason = next(iter(trial.refused.items()))
                self.found.refused.append(Refused(i, reason, text, len(trial.refused)))
            elif trial.found and trial.found == trial.lost:
                more = min(DOUBT_SAMPLES + self.rules[i].pattern.count("|"), MOST_SAMPLES)
                self._doubt(i, self._try(i, trial, count, more))

    def _try(self, index: int, trial: _Trial, first: int, count: int) -> _Trial:
        rule = self.rules[index]
        for text, bare in example_texts(rule.pattern, rule.action.match_type, first=first, count=count):
            able = self._able(text)
            if index not in able:
                trial.missed_bare += bare
                if index in self._reasons:
                    trial.refused[text] = self._reasons[index]
                continue
            self._note(able, text)
            trial.found += 1
            trial.bare = trial.bare or (text if bare else "")
            winner = next(i for i in able if i == index or _owner(self.rules[i]) == _owner(rule) or self._covers(i, index))
            if _owner(self.rules[winner]) != _owner(rule):
                trial.lost += 1
                trial.winners.setdefault(winner)
                trial.text = trial.text or text
            elif first:
                break  # one text of its own is enough
        return trial

    def _doubt(self, index: int, trial: _Trial) -> None:
        if trial.found == trial.lost and (trial.found >= ENOUGH or not trial.missed_bare):
            self.found.shadows.append(Shadow(index, tuple(trial.winners), trial.text, trial.found))

    def _able(self, text: str) -> list[int]:
        """The rules that may answer the text if their conditions hold, in the order in which they win."""
        verdicts = self._matcher.verdicts(text)
        self._left -= 1 + len(verdicts)
        if self._left < 0:
            raise _WorkSpent
        self._reasons = {verdict.index: verdict.reason for verdict in verdicts if verdict.reason is not None}
        return [verdict.index for verdict in verdicts if verdict.reason is None]

    def _note(self, able: list[int], text: str) -> None:
        """Keeps the pairs of equal priority of one text: each rule with the first that it may lose to."""
        if self._settled:
            return
        for place, loser in enumerate(able[:_LOOKED_AT]):
            rule = self.rules[loser]
            for winner in able[:place]:
                other = self.rules[winner]
                if _owner(other) == _owner(rule):
                    break  # its own action answers
                if not _apart(other.action.when, rule.action.when):
                    if other.priority == rule.priority:
                        self.pairs.setdefault((_owner(other), _owner(rule)), Overlap(winner, loser, text))
                    break

    def _covers(self, winner: int, loser: int) -> bool:
        """Whether the one always comes before the other: no condition of its own, also in the middle of a conversation."""
        first, second = self.rules[winner].action, self.rules[loser].action
        return (first.when is None or first.when == second.when) and (first.interrupts or not second.interrupts)


def _owner(rule: Rule) -> tuple[str, str]:
    return rule.kind, rule.action.id


def _unconditional(workflow: Workflow) -> Workflow:
    sections = ("flows", "tools", "skills", "system_actions")
    return workflow.model_copy(update={s: tuple(a.model_copy(update={"when": None}) for a in getattr(workflow, s)) for s in sections})


def _apart(one: When | None, other: When | None) -> bool:
    """Whether two conditions can never hold together."""
    if one is None or other is None:
        return False
    if any(name in other.context and not _same(value, other.context[name]) for name, value in one.context.items()):
        return True
    if one.days and other.days and not set(one.days) & set(other.days):
        return True
    languages = [{name.lower()[:2] for name in _listed(when.language)} for when in (one, other)]
    if all(languages) and not languages[0] & languages[1]:
        return True
    if one.between and other.between and one.timezone == other.timezone:
        return not any(a < d and c < b for a, b in _spans(one.between) for c, d in _spans(other.between))
    return False


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _listed(language: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (language,) if isinstance(language, str) else language or ()


def _spans(between: tuple[str, str]) -> list[tuple[str, str]]:
    """The window as pieces of one day; times are HH:MM, so texts compare as times do."""
    begin, end = between
    return [(begin, end)] if begin <= end else [(begin, "24:00"), ("00:00", end)]


def _merged(texts: list[str]) -> Iterator[str]:
    """Texts that end as another begins, joined over what they share: `refund order` and `order status` give `refund order status`."""
    folded = [fold(text) for text in texts]
    heads: dict[str, list[int]] = {}
    for i, text in enumerate(folded):
        if match := _TOKEN.match(text):
            heads.setdefault(match.group(), []).append(i)
    told = 0
    for i, text in enumerate(folded):
        tokens = _TOKEN.findall(text)
        tail = tokens[-1] if tokens and text.endswith(tokens[-1]) else ""
        for other in heads.get(tail, ()):
            if other != i and told < _MAX_MERGES:
                told += 1
                yield text + folded[other][len(tail) :]
