"""Runs the tests of one workflow and tells what they reach: which rules answered, which actions are expected."""

from __future__ import annotations

from common.workflow.problems import Path
from common.workflow.schema import Workflow, WorkflowTest
from lightweight.matching.match import Matcher
from standalone.commands.advice import RulePlaces
from standalone.commands.expectations import Verdict, judge
from standalone.commands.results import CheckedTest, Coverage, Outcome, Untested

_IDS = {"flows": ("flow", "flow_id"), "tools": ("tool", "name"), "skills": ("skill", "skill_id"), "system_actions": ("system", "action_id")}


def run_tests(workflow: Workflow, matcher: Matcher, places: RulePlaces) -> tuple[list[CheckedTest], Coverage]:
    """The outcome of every test of the workflow, and their coverage."""
    verdicts = [judge(workflow, matcher, test) for test in workflow.tests]
    results = [_checked(i, test, verdict, places) for i, (test, verdict) in enumerate(zip(workflow.tests, verdicts, strict=True))]
    return results, _coverage(workflow, matcher, verdicts, places)


def said_in_tests(workflow: Workflow) -> list[str]:
    """Every message of the workflow's tests."""
    return [text for test in workflow.tests for text in ((test.say,) if test.say is not None else test.turns or ())]


def _checked(i: int, test: WorkflowTest, verdict: Verdict, places: RulePlaces) -> CheckedTest:
    outcome: Outcome = "failed" if verdict.reasons else "passed" if verdict.checked else "not_checked"
    said = test.say if test.say is not None else (test.turns or ("",))[-1]
    line, column = places.place(("tests", i))
    return CheckedTest(places.file, line, column, test.name or repr(said[:60]), outcome, tuple(verdict.reasons), tuple(verdict.unchecked))


def _coverage(workflow: Workflow, matcher: Matcher, verdicts: list[Verdict], places: RulePlaces) -> Coverage:
    hit = {index for verdict in verdicts for index in verdict.rules}
    rules = [Untested(*places.at(rule), rule.kind, rule.action.id, rule.pattern) for i, rule in enumerate(matcher.rules) if i not in hit]
    tested = {(matcher.rules[i].kind, matcher.rules[i].action.id) for i in hit}
    expected = {(test.expect.action, test.expect.target) for test in workflow.tests}
    actions = []
    for section, (kind, key) in _IDS.items():
        for i, action in enumerate(getattr(workflow, section)):
            if (kind, action.id) not in tested and not expected & {(kind, action.id), (None, action.id)}:
                path: Path = (section, i, key)
                actions.append(Untested(*places.place(path), kind, action.id))
    return Coverage(
        places.file,
        len(workflow.tests),
        len(matcher.rules),
        len(workflow.actions()),
        tuple(sorted(rules, key=lambda rule: (rule.line, rule.column))),
        tuple(sorted(actions, key=lambda action: (action.line, action.column))),
    )
