"""Workflow → Matcher: every rule folded, checked and put into one RE2 filter. A rule that does not hold is named, all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time
from typing import Any, Literal
from zoneinfo import ZoneInfo

import re2

from common.errors import ConfigInvalid
from common.workflow.placeholders import variables_of
from common.workflow.schema import ActionKind, Ruled, Skill, Tool, When, Workflow
from lightweight.matching.fold import fold, fold_pattern
from lightweight.matching.match import Action, Condition, Matcher, Rule
from lightweight.matching.woven import Way, read_woven

Tier = Literal["lightweight", "heavy"]
_SECTIONS = {"flow": "flows", "tool": "tools", "skill": "skills", "system": "system_actions"}
# A program of this size costs at most milliseconds on the longest message (32 KB), even where RE2 falls back to its NFA.
MAX_PROGRAM = 20_000
_COMPLAINTS = (
    ("(?<=", "look-behind (?<=…) is not RE2: put the text before into the pattern and a named group around what you need"),
    ("(?<!", "negative look-behind (?<!…) is not RE2: put the unwanted form into exclude_patterns"),
    ("(?=", "look-ahead (?=…) is not RE2: write the alternatives out, as in `a.*b|b.*a`"),
    ("(?!", "negative look-ahead (?!…) is not RE2: put the unwanted form into exclude_patterns"),
    ("(?P=", "the back-reference (?P=name) is not RE2: write the alternatives out"),
    ("(?>", "the atomic group (?>…) is not RE2 and not needed there: use (?:…)"),
    ("(?#", "the comment (?#…) is not RE2: leave it out"),
    ("(?(", "the conditional (?(…)…) is not RE2: write the alternatives out"),
)
_PLAIN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


class RulesInvalid(ConfigInvalid):
    """At least one rule can't be compiled. `extra["problems"]` holds {path, action, pattern, message} of each."""


def compile_rules(workflow: Workflow) -> Matcher:
    """The workflow's rules, ready to match. Raises RulesInvalid naming every rule that does not hold."""
    problems: list[dict[str, str]] = []
    rules: list[Rule] = []
    prefilter = re2.Filter()
    options = _options()
    # stable: actions of equal priority stay in order of definition, and so do the patterns of one action
    for kind, action, path in sorted(_ruled(workflow), key=lambda item: -item[1].priority):
        excludes, condition = _shared_parts(kind, action, path, problems)
        tier = tier_of(kind, action)
        for i, pattern in enumerate(action.trigger_patterns):
            source = _source(pattern, action.match_type)
            complaint = None
            try:
                regexp = prefilter.re(prefilter.Add(source, options))
            except re2.error:
                complaint = _compile_complaint(pattern, source)  # the filter does not tell why
            else:
                complaint = _weight_complaint(pattern, regexp.programsize, literal=action.match_type != "regex")
                rules.append(_rule(kind, action, tier, pattern, regexp, excludes, condition, read_woven(source)))
            if complaint:
                problems.append(_problem(f"{path}.trigger_patterns[{i}]", kind, action, pattern, complaint))
    if problems:
        lines = "; ".join(f"{p['path']} ({p['action']}, {p['pattern']!r}): {p['message']}" for p in problems)
        raise RulesInvalid(f"{len(problems)} rule(s) can't be compiled: {lines}", problems=problems)
    if not rules:
        return Matcher((), None)
    try:
        prefilter.Compile()
    except re2.error:  # the set of their atoms takes more memory than RE2 allows
        raise RulesInvalid(f"agent {workflow.agent_id}: its {len(rules)} rules are too many for one agent: split it", problems=[]) from None
    return Matcher(tuple(rules), prefilter, escalate_ambiguous=workflow.ambiguous == "escalate")


def check_pattern(pattern: str) -> str | None:
    """Why a regular expression can't be a rule and how to rewrite it; None when it can."""
    return _compile_complaint(pattern, fold_pattern(pattern))


def _ruled(workflow: Workflow) -> Iterator[tuple[ActionKind, Action, str]]:
    """Actions that rules may choose, with their JSON paths, in the order in which equal priorities win."""
    seen: dict[str, int] = {}
    for kind, action in workflow.actions():
        place = seen[kind] = seen.get(kind, -1) + 1
        if action.trigger_patterns and getattr(action, "type", "keyword") != "intent":
            yield kind, action, f"$.{_SECTIONS[kind]}[{place}]"


def _shared_parts(kind: ActionKind, action: Action, path: str, problems: list[dict[str, str]]) -> tuple[tuple[Any, ...], Condition | None]:
    """What all patterns of an action share: its exclude patterns and its `when`."""
    excludes = []
    for i, pattern in enumerate(action.exclude_patterns):
        source = fold_pattern(pattern)
        if complaint := _compile_complaint(pattern, source):
            problems.append(_problem(f"{path}.exclude_patterns[{i}]", kind, action, pattern, complaint))
        else:
            excludes.append(re2.compile(source, _options()))
    try:
        return tuple(excludes), _condition(action.when)
    except (ValueError, KeyError) as e:  # ZoneInfoNotFoundError is a KeyError
        problems.append(_problem(f"{path}.when", kind, action, "", str(e).strip("'\"")))
        return (), None


def _rule(
    kind: ActionKind,
    action: Action,
    tier: Tier,
    pattern: str,
    regexp: Any,
    excludes: tuple[Any, ...],
    when: Condition | None,
    woven: tuple[Way, ...] | None,
) -> Rule:
    names = regexp.groupindex if regexp.groups and action.match_type == "regex" else {}
    return Rule(
        kind=kind,
        action=action,
        pattern=pattern,
        priority=action.priority,
        tier=tier,
        interrupts=action.interrupts,
        regexp=regexp if names else None,  # rules with named groups are run once more when they win
        groups=tuple(names.items()),
        required=action.required_groups,
        excludes=excludes,
        when=when,
        woven=woven,
        simple=not (names or action.required_groups or excludes or when),
    )


def tier_of(kind: ActionKind, action: Ruled) -> Tier:
    """Who runs an action that a rule chose. Heavy alone knows sessions: it runs agent skills, system actions, tools that a person must
    approve, and what takes something from the user's profile; the rest is one HTTP call or none."""
    if kind == "system" or (isinstance(action, Skill) and action.execution_mode == "agent"):
        return "heavy"
    if isinstance(action, Tool) and action.approval:
        return "heavy"
    return "heavy" if "profile" in variables_of(action) else "lightweight"


def _options() -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 32 << 20  # a ceiling for programs and DFA states; only what is used is taken
    return options


def _source(pattern: str, match_type: str) -> str:
    if match_type == "regex":
        return fold_pattern(pattern)
    literal = re2.escape(fold(pattern))
    return rf"\A{literal}\z" if match_type == "exact" else literal


def _compile_complaint(pattern: str, source: str) -> str | None:
    try:
        regexp = re2.compile(source, _options())
    except re2.error as e:
        return _reason(pattern, _message(e))
    return _weight_complaint(pattern, regexp.programsize, literal=False)


def _weight_complaint(pattern: str, size: int, *, literal: bool) -> str | None:
    if not (fold(pattern) if literal else pattern.strip()):
        return "it is empty"
    if size > MAX_PROGRAM:
        return f"its program is too large ({size} instructions of at most {MAX_PROGRAM}): shorten its repetitions or alternatives"
    return None


def _message(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _reason(pattern: str, said: str) -> str:
    """RE2's complaint in words that name the construct and the way out."""
    bare = _PLAIN.sub(lambda m: m.group() if m.group()[0] == "\\" else "", pattern)
    unescaped = re.sub(r"\\.", "", bare, flags=re.DOTALL)
    for construct, advice in _COMPLAINTS:
        if construct in unescaped:
            return advice
    if back := re.search(r"\\[1-9]", re.sub(r"\\[^1-9]", "", bare)):
        return f"the back-reference {back.group()} is not RE2: write the alternatives out"
    if re.search(r"[*+?}]\+", unescaped):
        return "possessive repetition (`a++`) is not RE2 and not needed there: leave the second + out"
    if "too large" in said or "repetition size" in said or "repeat" in said:
        return f"its program is too large ({said}): shorten its repetitions"
    return f"it is not a regular expression of RE2: {said}"


def _condition(when: When | None) -> Condition | None:
    """Raises ValueError or KeyError for a time or zone that does not exist."""
    if when is None:
        return None
    languages = (when.language,) if isinstance(when.language, str) else when.language or ()
    window = (_clock(when.between[0]), _clock(when.between[1])) if when.between else None
    return Condition(tuple(name.lower()[:2] for name in languages), window, when.days or (), ZoneInfo(when.timezone), dict(when.context))


def _clock(written: str) -> time:
    if written == "24:00":
        return time.max
    try:
        return time.fromisoformat(written)
    except ValueError:
        raise ValueError(f"{written!r} is not a time like 09:30") from None


def _problem(path: str, kind: str, action: Action, pattern: str, message: str) -> dict[str, str]:
    return {"path": path, "action": f"{kind} {action.id}", "pattern": pattern, "message": message}
