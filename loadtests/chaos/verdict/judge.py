"""All points of the verdict over one body of evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtests.chaos.history import Evidence
from loadtests.chaos.verdict import answers, effects, presence, rest, streams, tasks
from loadtests.chaos.verdict.book import Book, Violation

Point = Callable[[Book], tuple[list[Violation], dict[str, int]]]
POINTS: tuple[Point, ...] = (
    presence.present,
    presence.ordered,
    answers.answered,
    answers.own_words,
    answers.ended,
    answers.repeated,
    answers.all_known,
    answers.foreign,
    streams.streamed,
    streams.replayed,
    effects.once,
    effects.calls,
    tasks.told,
    tasks.batched,
    tasks.ended,
    rest.quiet,
    rest.valid,
)


@dataclass(slots=True)
class Verdict:
    """What was found: violations (none, if all is proven), and figures by their name."""

    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


def judge(evidence: Evidence) -> Verdict:
    """Asks every point."""
    book, verdict = Book(evidence), Verdict()
    for point in POINTS:
        violations, figures = point(book)
        verdict.violations += violations
        verdict.figures |= figures
    return verdict
