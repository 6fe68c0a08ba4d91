"""`loadsplit check`: every problem of workflow files, their tests with coverage, and past messages replayed. It calls no API and no LLM.

What only a running server could tell (an LLM's choice, the answer of an API) is reported as not checked, never as passed or failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

from common.errors import ConfigInvalid
from common.settings import read_environ
from common.workflow.load import Examined, examine_file, examine_text, load_file, workflow_files
from common.workflow.patterns import PatternCheck
from common.workflow.problems import Problem, in_order
from common.workflow.schema import Workflow
from lightweight.matching.compile import check_pattern, compile_rules
from lightweight.matching.match import Matcher
from standalone.commands.advice import RulePlaces, advise
from standalone.commands.coverage import run_tests, said_in_tests
from standalone.commands.junit import render_junit
from standalone.commands.replay import Replayed, read_log, replay
from standalone.commands.report import print_pretty, render_json
from standalone.commands.results import Checked, CheckedTest, Coverage

MAX_TRIED = 10_000  # messages of a log in which overlapping rules are looked for


class WrongCall(ValueError):
    """Arguments that do not go together; it says what is wanted."""


def run(
    files: list[Path], *, as_json: bool = False, junit: Path | None = None, log: Path | None = None, against: Path | None = None
) -> int:
    """The command: prints to stdout and returns the exit code. Files that do not exist are its caller's error: 2, with one line each.

    Raises ValueError for arguments that do not go together and for a log that can't be read, WorkflowInvalid for a faulty `against`.
    """
    lost = [file for file in (*files, log, against) if file is not None and not file.exists()]
    for file in lost:
        print(f"{file}: no such file", file=sys.stderr)
    if lost:
        return 2
    checked = check(files, read_environ(), log=log, against=against)
    if log is not None and checked.replayed is None:
        print(f"{log}: not replayed, {files[0]} has errors", file=sys.stderr)
    if junit is not None:
        junit.write_text(render_junit(checked), encoding="utf-8")
    if as_json:
        print(render_json(checked))
    else:
        print_pretty(checked)
    return checked.exit_code


def check(
    files: list[Path],
    env: Mapping[str, str],
    *,
    log: Path | None = None,
    against: Path | None = None,
    pattern_check: PatternCheck = check_pattern,
    compiler: Callable[[Workflow], Matcher] = compile_rules,
) -> Checked:
    """Examines the files (a directory stands for its workflow files), compiles their rules, runs their tests and replays the log."""
    if against is not None and log is None:
        raise WrongCall("--against says what to compare with: give the past messages with --replay FILE.jsonl")
    if log is not None and (len(files) != 1 or files[0].is_dir()):
        raise WrongCall("--replay takes one workflow file: messages are one agent's")
    work = _Work(env, pattern_check, compiler, [said.message for said in islice(read_log(log), MAX_TRIED)] if log else [])
    for given in files:
        agents: dict[str, str] = {}
        for file in _expanded(given, work.problems):
            work.examine(file, agents)
    if log is not None and work.matchers:
        old = None if against is None else compiler(load_file(against, env, check_pattern=pattern_check))
        work.replayed = replay(read_log(log), work.matchers[0], old)
    return work.checked()


def check_text(text: str, name: str, env: Mapping[str, str]) -> tuple[Workflow | None, Checked]:
    """The same for one text: its workflow, unless one of its problems is an error, and all that is known of it."""
    work = _Work(env, check_pattern, compile_rules, [])
    workflow = work.take(name, examine_text(text, name, env, check_pattern=check_pattern, unknown_names="error"), {})
    return workflow, work.checked()


class _Work:
    """What one call of `check` gathers, file by file."""

    def __init__(
        self, env: Mapping[str, str], pattern_check: PatternCheck, compiler: Callable[[Workflow], Matcher], said: list[str]
    ) -> None:
        self._env, self._pattern_check, self._compiler, self._said = env, pattern_check, compiler, said
        self.problems: list[Problem] = []
        self.matchers: list[Matcher] = []
        self.replayed: Replayed | None = None
        self._names: list[str] = []
        self._tests: list[CheckedTest] = []
        self._coverage: list[Coverage] = []

    def examine(self, file: Path, agents: dict[str, str]) -> None:
        """One file: its problems and, unless one of them is an error, its rules and tests. `agents` are those of its directory."""
        self.take(str(file), examine_file(file, self._env, check_pattern=self._pattern_check, unknown_names="error"), agents)

    def take(self, file: str, examined: Examined, agents: dict[str, str]) -> Workflow | None:
        """What was examined; its workflow, unless one of its problems is an error."""
        self._names.append(file)
        self.problems.extend(examined.problems)
        workflow = examined.workflow
        if workflow is None:
            return None
        _refuse_twice(workflow, Path(file), agents, self.problems)
        try:
            matcher = self._compiler(workflow)
        except ConfigInvalid as e:
            self.problems.append(Problem("error", "bad_rules", e.detail, file=file))
            return None
        self.matchers.append(matcher)
        places = RulePlaces.of(workflow, examined.place, file)
        self.problems.extend(advise(workflow, matcher, places, [*said_in_tests(workflow), *self._said]))
        results, covered = run_tests(workflow, matcher, places)
        self._tests.extend(results)
        self._coverage.append(covered)
        return workflow

    def checked(self) -> Checked:
        """All of it."""
        return Checked(tuple(self._names), tuple(in_order(self.problems)), tuple(self._tests), tuple(self._coverage), self.replayed)


def _expanded(given: Path, problems: list[Problem]) -> list[Path]:
    if not given.is_dir():
        return [given]
    files = workflow_files(given)
    if not files:
        problems.append(Problem("error", "no_files", "the directory holds no workflow file", file=str(given)))
    return files


def _refuse_twice(workflow: Workflow, file: Path, agents: dict[str, str], problems: list[Problem]) -> None:
    # a file of a directory without agent_id is named after itself, so it can't collide
    agent_id = workflow.agent_id if "agent_id" in workflow.model_fields_set else ""
    if agent_id and agent_id in agents:
        message = f"the agent_id {agent_id!r} is already taken by {agents[agent_id]}"
        problems.append(Problem("error", "duplicate_agent", message, "give each agent an agent_id of its own", "$.agent_id", str(file)))
    agents.setdefault(agent_id, file.name)
