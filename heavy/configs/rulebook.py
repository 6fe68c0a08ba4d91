"""What the config centre asks of the rule tier, which heavy does not know: whoever starts the process gives it. Without one a version is
validated and linted, and its tests are not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.contracts.rollout import Form
from common.workflow.load import examine_text
from common.workflow.patterns import PatternCheck, foreign_construct
from common.workflow.problems import Problem
from common.workflow.schema import Workflow
from heavy.actions.compiled import Rules


@dataclass(frozen=True, slots=True)
class Examination:
    """What there is to say of a text. `workflow` is None when one of its problems is an error. `tests` are the workflow's own, each
    {name, outcome, reasons, unchecked, line, column}; None where they could not be run."""

    workflow: Workflow | None
    problems: Sequence[Problem] = ()
    tests: Sequence[Mapping[str, Any]] | None = None

    @property
    def failed(self) -> bool:
        """Whether the version may not be stored."""
        return self.workflow is None or any(test["outcome"] == "failed" for test in self.tests or ())


class Rulebook(Protocol):
    """The rule tier as far as heavy needs it."""

    check_pattern: PatternCheck

    def rules_of(self, workflow: Workflow) -> Rules:
        """The rules of a workflow, for messages that do not pass the rule tier. Raises ConfigInvalid."""

    def examine(self, text: str, name: str, env: Mapping[str, str]) -> Examination:
        """Validates and lints a text, compiles its rules and runs its tests."""

    def replay(self, said: Sequence[Mapping[str, Any]], old: Workflow, new: Workflow) -> dict[str, Any]:
        """Which of these messages {message, context, session_id} would be routed otherwise by `new` than by `old`."""


@dataclass(frozen=True)
class NoRules:
    """A process that was started without the rule tier. Nothing is said of rules here."""

    check_pattern: PatternCheck = field(default=foreign_construct)

    def examine(self, text: str, name: str, env: Mapping[str, str]) -> Examination:
        """Validates and lints a text."""
        examined = examine_text(text, name, env, check_pattern=self.check_pattern, unknown_names="error")
        return Examination(examined.workflow, examined.problems)

    def replay(self, said: Sequence[Mapping[str, Any]], old: Workflow, new: Workflow) -> dict[str, Any]:
        """Only the count: nothing is routed here."""
        return {"messages": len(said)}


def form_of(content_type: str | None) -> Form | None:
    """The form that a media type names: JSON without one; None for a type that is neither JSON nor YAML."""
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if kind in ("application/json", "text/json"):
        return "json"
    return "yaml" if kind in ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml") else None
