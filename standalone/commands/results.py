"""What `loadsplit check` knows when it has done its work; the reports are made from this alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.workflow.problems import Problem
from standalone.commands.replay import Replayed

Outcome = Literal["passed", "failed", "not_checked"]


@dataclass(frozen=True, slots=True)
class CheckedTest:
    """One test of a file. `reasons` say why it failed, `unchecked` what only a running server could tell."""

    file: str
    line: int
    column: int
    name: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Untested:
    """A rule (with its pattern) or an action (without) that no test reaches."""

    line: int
    column: int
    action_type: str
    action_target: str
    pattern: str | None = None

    def __str__(self) -> str:
        return f"{self.action_type} {self.action_target}" + ("" if self.pattern is None else f" by {self.pattern!r}")


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a file its tests reach. A rule is tested when it answers a turn of one, an action also when it is expected."""

    file: str
    tests: int
    rules: int
    actions: int
    untested_rules: tuple[Untested, ...] = ()
    untested_actions: tuple[Untested, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `--json`."""
        return {
            "file": self.file,
            "tests": self.tests,
            "rules": self.rules,
            "rules_tested": self.rules - len(self.untested_rules),
            "actions": self.actions,
            "actions_tested": self.actions - len(self.untested_actions),
            "untested_rules": [asdict(rule) for rule in self.untested_rules],
            "untested_actions": [asdict(action) for action in self.untested_actions],
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """All that is known of the files."""

    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    tests: tuple[CheckedTest, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    replayed: Replayed | None = None

    @property
    def exit_code(self) -> int:
        """0 when clean (warnings allowed), 1 otherwise."""
        failed = any(t.outcome == "failed" for t in self.tests)
        return int(failed or any(p.level == "error" for p in self.problems))

    def outcomes(self) -> dict[str, int]:
        """How many tests ended how."""
        counted = Counter(test.outcome for test in self.tests)
        return {outcome: counted[outcome] for outcome in ("passed", "failed", "not_checked")}
