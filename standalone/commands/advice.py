"""What only the compiled rules show: which are too broad, overlap or never answer. Findings become problems with their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.workflow.problems import Path, Problem, json_path
from common.workflow.schema import Workflow
from lightweight.matching.explain import as_written
from lightweight.matching.match import Matcher, Rule
from lightweight.matching.overlap import Overlap, Refused, Shadow, find_overlaps

Place = Callable[[Path], tuple[int, int]]
# Words that say nothing by themselves; a rule that is found in one of them alone is found in nearly every message.
EVERYDAY = ("the", "a", "i", "you", "is", "it", "to", "and", "what", "please", "my", "的", "了", "我", "你", "是", "吗", "请问")
TOLD_OVERLAPS = 3  # of one action, with the others counted
_SECTIONS = {"flow": "flows", "tool": "tools", "skill": "skills", "system": "system_actions"}


@dataclass(frozen=True, slots=True)
class RulePlaces:
    """Where the rules and actions of a workflow stand in its file."""

    file: str
    place: Place
    paths: dict[tuple[str, str, str], Path]

    @classmethod
    def of(cls, workflow: Workflow, place: Place, file: str) -> RulePlaces:
        """The places of the workflow's rules; of a pattern that an action has twice, the first."""
        paths: dict[tuple[str, str, str], Path] = {}
        for kind, section in _SECTIONS.items():
            for i, action in enumerate(getattr(workflow, section)):
                for j, pattern in enumerate(action.trigger_patterns):
                    paths.setdefault((kind, action.id, pattern), (section, i, "trigger_patterns", j))
        return cls(file, place, paths)

    def at(self, rule: Rule) -> tuple[int, int]:
        """Line and column of a rule's pattern."""
        return self.place(self.paths[rule.kind, rule.action.id, rule.pattern])

    def warning(self, code: str, message: str, rule: Rule, hint: str) -> Problem:
        """A warning at a rule's pattern."""
        line, column = self.at(rule)
        return Problem(
            "warning", code, message, hint, json_path(self.paths[rule.kind, rule.action.id, rule.pattern]), self.file, line, column
        )


def advise(workflow: Workflow, matcher: Matcher, places: RulePlaces, said: Iterable[str] = ()) -> list[Problem]:
    """Warnings about the rules as a whole. `said` are messages of people, tried beside the examples that the patterns give."""
    found = find_overlaps(workflow, matcher, said)
    problems = broad_rules(matcher, places)
    problems += [_refused(refused, matcher.rules, places) for refused in found.refused]
    problems += [_shadowed(shadow, matcher.rules, places) for shadow in found.shadows]
    problems += _overlapping(found.overlaps, matcher.rules, places)
    if not found.complete:
        what = "the rules are found in each other's examples too often to look at all of them for overlaps"
        problems.append(Problem("warning", "overlaps_unfinished", what, "mend the rules told here and check again", "$", places.file))
    return problems


def broad_rules(matcher: Matcher, places: RulePlaces) -> list[Problem]:
    """Warnings for the rules that are found in an empty message or in an everyday word alone."""
    found: dict[int, tuple[str, str]] = {}
    for word in ("", *EVERYDAY):
        for verdict in matcher.verdicts(word):
            what = f"this rule is found in the word {word!r} alone" if word else "this rule is found in an empty message"
            found.setdefault(verdict.index, ("everyday_word" if word else "matches_empty", what))
    hint = "add words that only this request has"
    return [places.warning(code, what, matcher.rules[index], hint) for index, (code, what) in found.items()]


def _shadowed(shadow: Shadow, rules: tuple[Rule, ...], places: RulePlaces) -> Problem:
    rule = rules[shadow.rule]
    winners = [rules[i] for i in shadow.winners]
    told = [_named(winner, places) for winner in winners[:2]]
    if len(winners) > 2:
        told.append(f"{len(winners) - 2} more")
    count = "the only text" if shadow.tried == 1 else f"each of the {shadow.tried} texts"
    message = f"this rule never seems to answer: {' and '.join(told)} came first in {count} tried, such as {shadow.text!r}"
    highest = max(winner.priority for winner in winners)
    if highest > rule.priority:
        hint = f"give it a priority above {highest}, or remove it"
    else:
        hint = f"give it a priority above {rule.priority}, put its action first, or remove it"
    return places.warning("shadowed_rule", message, rule, hint)


def _refused(refused: Refused, rules: tuple[Rule, ...], places: RulePlaces) -> Problem:
    rule = rules[refused.rule]
    why = as_written(rule, refused.reason)
    message = f"this rule never seems to answer: in each text that it was tried with, such as {refused.text!r}, {why}"
    return places.warning("never_answers", message, rule, "narrow exclude_patterns or required_groups, or remove the rule")


def _overlapping(overlaps: list[Overlap], rules: tuple[Rule, ...], places: RulePlaces) -> list[Problem]:
    of_action: dict[tuple[str, str], list[Overlap]] = {}
    for overlap in overlaps:
        loser = rules[overlap.loser]
        of_action.setdefault((loser.kind, loser.action.id), []).append(overlap)
    problems = []
    for several in of_action.values():
        for place, overlap in enumerate(several[:TOLD_OVERLAPS]):
            winner = rules[overlap.winner]
            message = f"this rule and {_named(winner, places)} are both found in {overlap.text!r}; the one defined first answers"
            more = len(several) - TOLD_OVERLAPS
            if place == TOLD_OVERLAPS - 1 and more > 0:
                message += f" ({more} more action(s) overlap with {rules[overlap.loser].action.id})"
            hint = "give the one that should answer a priority, or the other exclude_patterns"
            problems.append(places.warning("overlapping_rules", message, rules[overlap.loser], hint))
    return problems


def _named(rule: Rule, places: RulePlaces) -> str:
    return f"{rule.kind} {rule.action.id} (rule {rule.pattern!r}, line {places.at(rule)[0]})"
