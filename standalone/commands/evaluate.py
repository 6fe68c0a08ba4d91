"""How good the rules of a file are on real labelled messages: how many they answer, how many of those rightly, and what they swallow.

`python -m standalone.commands.evaluate FILE --messages CSV` (or `make eval`). It calls no API and no LLM.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.errors import LoadsplitError
from common.settings import read_environ
from common.workflow.load import load_file
from lightweight.matching.compile import compile_rules
from lightweight.matching.match import Matcher
from loadtests.mining.messages import Message, divide, read_messages
from loadtests.mining.offtopic import questions

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Category:
    """One category: its messages, how many of them its rules answered, and how many of others."""

    messages: int = 0
    right: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What became of the messages. `ambiguous` met rules of several actions and went to the LLM; `microseconds` is the mean a match."""

    messages: int
    answered: int
    right: int
    ambiguous: int
    microseconds: float
    confusions: list[tuple[str, str, int, str]] = field(default_factory=list)  # answered as, was, how often, for example
    categories: dict[str, Category] = field(default_factory=dict)
    off_topic: int = 0
    swallowed: list[tuple[str, str]] = field(default_factory=list)  # question, answered as

    @property
    def coverage(self) -> float:
        """The share of messages that a rule answered, 0 to 1."""
        return self.answered / self.messages if self.messages else 0.0

    @property
    def precision(self) -> float:
        """The share of the answered messages that got the answer of their category, 0 to 1; 1 when none was answered."""
        return self.right / self.answered if self.answered else 1.0

    @property
    def off_topic_rate(self) -> float:
        """The share of the off-topic questions that a rule answered, 0 to 1."""
        return len(self.swallowed) / self.off_topic if self.off_topic else 0.0

    def document(self) -> dict[str, object]:
        """As JSON data."""
        shares = {"coverage": self.coverage, "precision": self.precision, "off_topic_rate": self.off_topic_rate}
        return {**{k: round(v, 5) for k, v in shares.items()}, **asdict(self)}


def route(matcher: Matcher, text: str) -> tuple[str | None, bool]:
    """(the action that a rule answers with in the lightweight tier, whether several actions claimed the text)."""
    match = matcher.match(text)
    if match is None or match.ambiguous:
        return None, match is not None
    return (match.action.id if matcher.rules[match.index].tier == "lightweight" else None), False


def evaluate(matcher: Matcher, messages: Iterable[Message], off_topic: Iterable[str] = ()) -> Evaluation:
    """Routes every message and compares: an answer is right when its action's id is the message's category."""
    mine: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    confused: dict[tuple[str, str], list[str]] = {}
    ambiguous = 0
    begun = time.perf_counter()
    for message in messages:
        mine[message.category] += 1
        action, torn = route(matcher, message.text)
        ambiguous += torn
        if action == message.category:
            right[action] += 1
        elif action is not None:
            wrong[action] += 1
            confused.setdefault((action, message.category), []).append(message.text)
    took = time.perf_counter() - begun
    strangers = list(off_topic)
    return Evaluation(
        messages=mine.total(),
        answered=right.total() + wrong.total(),
        right=right.total(),
        ambiguous=ambiguous,
        microseconds=round(took / max(mine.total(), 1) * 1e6, 1),
        confusions=sorted(((a, b, len(texts), texts[0]) for (a, b), texts in confused.items()), key=lambda c: (-c[2], c)),
        categories={name: Category(mine[name], right[name], wrong[name]) for name in sorted({*mine, *wrong})},
        off_topic=len(strangers),
        swallowed=[(text, action) for text in strangers if (action := route(matcher, text)[0]) is not None],
    )


def interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of k in n (Wilson's score)."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def render(result: Evaluation, what: str) -> str:
    """The result for people."""
    low, high = interval(result.right, result.answered)
    left = result.messages - result.answered
    lines = [
        f"{what}: {result.messages} messages, {result.microseconds} µs a match",
        f"  answered by a rule   {result.coverage:7.2%}   {result.answered}",
        f"  of those rightly     {result.precision:7.2%}   {result.right} (95 % interval {low:.2%} to {high:.2%})",
        f"  left to the LLM      {1 - result.coverage:7.2%}   {left}, {result.ambiguous} of them claimed by several actions",
    ]
    if result.off_topic:
        lines.append(f"  off-topic swallowed  {result.off_topic_rate:7.2%}   {len(result.swallowed)} of {result.off_topic}")
        lines += [f"    {text!r} → {action}" for text, action in result.swallowed[:SHOWN]]
    if result.confusions:
        lines.append("  answered as → was (most frequent)")
        lines += [f"    {n} × {said} → {was}: {text[:90]!r}" for said, was, n, text in result.confusions[:SHOWN]]
    return "\n".join(lines)


def run(given: argparse.Namespace) -> int:
    """The command: prints, writes `--out`, and returns 1 when a `--min-…`/`--max-…` bound does not hold."""
    workflow = load_file(given.file, read_environ())
    messages = read_messages(given.messages)
    training, held = divide(messages, given.held_back, given.seed)
    part, what = (held, f"held back ({given.held_back:.0%}, seed {given.seed})") if given.held_back else (messages, "all messages")
    if given.training:
        part, what = training, "training part"
    result = evaluate(compile_rules(workflow), part, questions("exam") if given.off_topic else ())
    print(render(result, what))
    if given.out:
        given.out.write_text(json.dumps(result.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    missed = [
        f"{name} is {value:.2%}, not {'at least' if floor else 'at most'} {bound:.2%}"
        for name, value, bound, floor in (
            ("coverage", result.coverage, given.min_coverage, True),
            ("precision", result.precision, given.min_precision, True),
            ("off-topic rate", result.off_topic_rate, given.max_off_topic, False),
        )
        if (value < bound if floor else value > bound)
    ]
    for line in missed:
        print(line, file=sys.stderr)
    return int(bool(missed))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(prog="python -m standalone.commands.evaluate", description=(__doc__ or "").splitlines()[0])
    made.add_argument("file", type=Path, help="workflow file whose action ids are the categories")
    made.add_argument("--messages", type=Path, required=True, help="CSV with the columns text and category")
    made.add_argument("--held-back", type=float, default=0.2, help="share of every category to measure on; 0 takes all messages")
    made.add_argument("--seed", type=int, default=7, help="which messages are held back")
    made.add_argument("--training", action="store_true", help="measure on the training part instead")
    made.add_argument("--off-topic", action="store_true", help="also ask questions that have nothing to do with a bank")
    made.add_argument("--out", type=Path, help="write the result as JSON")
    made.add_argument("--min-coverage", type=float, default=0.0, help="fail below this share")
    made.add_argument("--min-precision", type=float, default=0.0, help="fail below this share")
    made.add_argument("--max-off-topic", type=float, default=1.0, help="fail above this share")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 when all holds, 1 when a bound does not, 2 when a file can't be read."""
    try:
        return run(parser().parse_args(arguments))
    except (LoadsplitError, OSError, ValueError) as e:
        print(f"evaluate: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
