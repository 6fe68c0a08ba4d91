"""What a workflow file says across its parts: ids, targets, rules, tests. Endpoints and templates are judged in `lint_calls`.

It calls nothing and knows no regular-expression engine: a check of patterns comes in as an argument.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.workflow.lint_calls import lint_calls
from common.workflow.lint_sessions import lacks_server_tool, lint_sessions
from common.workflow.patterns import PatternCheck, foreign_construct, group_names
from common.workflow.positions import Marks, Source
from common.workflow.problems import Level, Path, Problem, in_order
from common.workflow.report import Report
from common.workflow.schema import Ruled, Workflow

SECTIONS = {"flow": "flows", "tool": "tools", "skill": "skills", "system": "system_actions"}
ID_KEYS = {"flow": "flow_id", "tool": "name", "skill": "skill_id", "system": "action_id"}
PLATFORM_TOOLS = frozenset({"done"})
_CLOCK = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d\Z|24:00\Z")


def lint(
    workflow: Workflow,
    report: Report | None = None,
    *,
    env: Mapping[str, str] | None = None,
    check_pattern: PatternCheck = foreign_construct,
    unknown_names: Level = "error",
) -> list[Problem]:
    """Every problem of the workflow as a whole, in the order of the text.

    `report` gives the places in the text; `env` are the values of `${NAME}` (the workflow's own without it); `unknown_names` is the level
    of a placeholder that nothing in the file defines: v9 files may take any name from the request's context, so loading only warns.
    """
    report = report or Report(Source("", {}, Marks()), "")
    known = _known_ids(workflow, report.source.doc)
    _duplicates(workflow, report)
    _targets(workflow, report, known)
    for kind, section in SECTIONS.items():
        for i, action in enumerate(getattr(workflow, section)):
            _rules(action, (section, i), report, check_pattern, intent=getattr(action, "type", "") == "intent")
            _completeness(kind, action, (section, i), report)
    _tests(workflow, report, known)
    _advice(workflow, report)
    lint_sessions(workflow, report)
    lint_calls(workflow, report, workflow.env if env is None else env, unknown_names)
    return in_order(report.problems)


def near(word: str, words: Any, cutoff: float = 0.6) -> str:
    """`did you mean 'x'?` with the nearest of the words, or nothing."""
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, slots=True)
class _Ids:
    """Ids by kind. Of a kind in `unsure` some entry could not be read, so an id that is not here may still be meant to exist."""

    of: dict[str, set[str]]
    unsure: frozenset[str]

    def lacks(self, kind: str, name: str) -> bool:
        return name not in self.of[kind] and kind not in self.unsure


def _known_ids(workflow: Workflow, doc: Any) -> _Ids:
    """Ids by kind, those of entries that are broken in another way included: a broken tool is still the tool that a skill names."""
    known = {kind: {a.id for a in getattr(workflow, section)} for kind, section in SECTIONS.items()}
    unsure = set()
    for kind, section in SECTIONS.items():
        entries = (doc.get(section) if isinstance(doc, dict) else None) or []
        names = [e.get(ID_KEYS[kind]) if isinstance(e, dict) else None for e in entries] if isinstance(entries, list) else [None]
        known[kind].update(name for name in names if isinstance(name, str))
        if not all(isinstance(name, str) for name in names):
            unsure.add(kind)
    return _Ids(known, frozenset(unsure))


def _duplicates(workflow: Workflow, report: Report) -> None:
    named: list[tuple[str, str, list[str]]] = [(s, ID_KEYS[k], [a.id for a in getattr(workflow, s)]) for k, s in SECTIONS.items()]
    named.append(("timers", "timer_id", [t.timer_id for t in workflow.timers]))
    named.append(("mcp_servers", "name", [m.name for m in workflow.mcp_servers]))
    for section, key, ids in named:
        first: dict[str, int] = {}
        for i, name in enumerate(ids):
            if name in first:
                line, _ = report.source.value(report.original((section, first[name], key)))
                report.error(
                    "duplicate_id", f"{key} {name!r} is already taken in line {line}", (section, i, key), "give it an id of its own"
                )
            first.setdefault(name, i)


def _targets(workflow: Workflow, report: Report, known: _Ids) -> None:
    def target(kind: str, name: str | None, path: Path, level: Level = "error") -> None:
        if name is None:
            report.add(level, "unknown_target", f"the {kind} to act on is missing", path, f"name one of the {SECTIONS[kind]}")
        elif known.lacks(kind, name):
            hint = near(name, known.of[kind]) or _elsewhere(name, known) or f"define it in {SECTIONS[kind]}"
            report.add(level, "unknown_target", f"there is no {kind} {name!r}", path, hint)

    for i, skill in enumerate(workflow.skills):
        for j, name in enumerate(skill.tools):
            wrong = lacks_server_tool(name, workflow.mcp_servers)
            if wrong:
                report.error("unknown_target", wrong, ("skills", i, "tools", j), "add it to the server's tools, or leave it out here")
            elif wrong is None and name not in PLATFORM_TOOLS:
                target("tool", name, ("skills", i, "tools", j))
    for i, timer in enumerate(workflow.timers):
        if timer.action_type == "message":
            if not timer.message:
                report.error("no_message", f"timer {timer.timer_id!r} sends a message but has none", ("timers", i), "add message")
        else:
            target(timer.action_type, timer.action_target, ("timers", i, "action_target"))
    asks_url = workflow.retrieve_knowledge_url is not None and workflow.kb_config.tool_name is None
    if (workflow.kb_config.enabled or workflow.kb_config.tool_name) and not asks_url:
        # v9 only leaves the knowledge out when no tool is named
        level: Level = "error" if workflow.kb_config.tool_name else "warning"
        target("tool", workflow.kb_config.tool_name, ("kb_config", "tool_name"), level)
    for i, entry in enumerate(workflow.action_books):
        target(entry.action_type, entry.action_target, ("action_books", i, "action_target"), "warning")


def _elsewhere(name: str, known: _Ids) -> str:
    kinds = [kind for kind, ids in known.of.items() if name in ids]
    return f"{name!r} is a {kinds[0]}" if kinds else ""


def _rules(action: Ruled, path: Path, report: Report, check: PatternCheck, *, intent: bool) -> None:
    regex = action.match_type == "regex"
    groups: set[str] = set()
    for field in ("trigger_patterns", "exclude_patterns"):
        for i, pattern in enumerate(getattr(action, field)):
            here = (*path, field, i)
            if not pattern.strip():
                report.error("bad_pattern", "an empty pattern matches every message", here, "remove it")
            elif regex or field == "exclude_patterns":
                complaint = check(pattern)
                if complaint:
                    what, _, hint = complaint.partition(": ")
                    report.error("bad_pattern", what, here, hint)
            if regex and field == "trigger_patterns":
                groups.update(group_names(pattern))
    for i, name in enumerate(action.required_groups):
        if name not in groups:
            hint = near(name, groups) or f"name a group in a pattern: (?P<{name}>…)"
            report.error("unknown_group", f"no pattern has a group {name!r}", (*path, "required_groups", i), hint)
    if intent and action.trigger_patterns:
        message = "an intent flow is chosen by the LLM; its patterns do nothing"
        report.warning("patterns_ignored", message, (*path, "trigger_patterns"), "use type keyword")
    _when(action, path, report)


def _when(action: Ruled, path: Path, report: Report) -> None:
    if action.when is None:
        return
    for i, clock in enumerate(action.when.between or ()):
        if not _CLOCK.match(clock):
            report.error("bad_when", f"{clock[:40]!r} is no time of the day", (*path, "when", "between", i), 'write "09:00"')
    try:
        zoneinfo.ZoneInfo(action.when.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = near(action.when.timezone, zoneinfo.available_timezones()) or "write a name such as Europe/Berlin"
        report.error("bad_when", f"there is no time zone {action.when.timezone[:64]!r}", (*path, "when", "timezone"), hint)


def _completeness(kind: str, action: Any, path: Path, report: Report) -> None:
    if kind == "flow":
        if action.endpoint is None and action.response_template is None and not action.silent:
            hint = "add an endpoint, or a response_template for a static answer"
            report.error("no_answer", f"flow {action.id!r} has neither endpoint nor response_template", path, hint)
        if action.type == "keyword" and not action.trigger_patterns:
            hint = 'add trigger_patterns, or "type": "intent" so that the LLM may choose it'
            report.warning("no_patterns", f"no rule ever chooses the flow {action.id!r}", path, hint)
    elif kind == "skill":
        if action.execution_mode == "function" and action.endpoint is None:
            report.error("no_endpoint", f"the function skill {action.id!r} has no endpoint", path, "add one, or use execution_mode agent")
        if action.execution_mode == "agent" and not action.system_prompt:
            report.warning("no_system_prompt", f"the agent skill {action.id!r} has no system_prompt", path, "say what it is to do and how")


def _tests(workflow: Workflow, report: Report, known: _Ids) -> None:
    for i, test in enumerate(workflow.tests):
        path: Path = ("tests", i)
        if (test.say is None) == (test.turns is None):
            report.error("bad_test", "a test has either say or turns", path, "keep one of the two")
        elif test.turns is not None and not test.turns:
            report.error("bad_test", "turns is empty", (*path, "turns"), "write the messages of the session")
        expect = test.expect
        if not expect.model_fields_set:
            report.warning("bad_test", "the test expects nothing", (*path, "expect"), "add action, target, tier, group or contains")
        if expect.target is not None:
            kinds = [str(expect.action)] if expect.action in SECTIONS else list(SECTIONS)
            candidates = set().union(*(known.of[kind] for kind in kinds))
            if all(known.lacks(kind, expect.target) for kind in kinds):
                hint = near(expect.target, candidates)
                report.error(
                    "unknown_target", f"there is no {expect.action or 'action'} {expect.target!r}", (*path, "expect", "target"), hint
                )


def _advice(workflow: Workflow, report: Report) -> None:
    named = {name for skill in workflow.skills for name in skill.tools}
    named |= {entry.action_target for entry in workflow.action_books if entry.action_type == "tool"}
    named |= {timer.action_target for timer in workflow.timers if timer.action_target}
    named |= {test.expect.target for test in workflow.tests if test.expect.target}
    named.add(workflow.kb_config.tool_name or "")
    for i, tool in enumerate(workflow.tools):
        if tool.name not in named and not tool.trigger_patterns:
            hint = "name it in a skill's tools or in action_books, give it trigger_patterns, or remove it"
            report.warning("unused_tool", f"nothing names the tool {tool.name!r}", ("tools", i, "name"), hint)
    tested = {test.expect.target for test in workflow.tests}
    if workflow.flows and not workflow.tests:
        report.warning("untested_flow", "no flow has a test", ("flows",), "add tests: what users say and what is to answer", at_key=True)
    for i, flow in enumerate(workflow.flows if workflow.tests else ()):
        if flow.id not in tested:
            report.warning("untested_flow", f"no test expects the flow {flow.id!r}", ("flows", i, "flow_id"), "add one to tests")
    if not workflow.fallback_message:
        report.warning("no_fallback", "there is no fallback_message", (), "say what to answer when nothing else can")
