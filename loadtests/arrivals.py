"""Arrivals at a chat LLM from a CSV (TIMESTAMP,ContextTokens,GeneratedTokens), or made ones; and the message that carries their sizes to
the LLM simulator.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LETTERS = 4  # of a token, as the simulator counts
MOST_TOKENS = 7_000  # of a message: the API takes 32 KB
WORDS = "the customer asks about an order that has not come yet and would like to know why "
# The simulator answers such a message with as many tokens as it asks for.
PATTERN = r"^About my order: answer in (?P<tokens>\d+) tokens"


@dataclass(frozen=True, slots=True)
class Arrival:
    """Seconds after the first one, and the tokens on both sides."""

    at: float
    context: int
    generated: int

    def message(self) -> str:
        """What to ask."""
        head = f"About my order: answer in {self.generated} tokens. "
        letters = max(0, min(self.context, MOST_TOKENS) * LETTERS - len(head))
        return head + (WORDS * (letters // len(WORDS) + 1))[:letters]


def read_arrivals(path: Path, limit: int | None = None) -> list[Arrival]:
    """The arrivals in order. Raises ValueError that names the file and the line."""
    found: list[Arrival] = []
    began: datetime | None = None
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"{path}: the first line does not name {', '.join(missing)}")
        for row in rows:
            try:
                when = datetime.fromisoformat(row["TIMESTAMP"][:26])
                context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (TypeError, ValueError):
                raise ValueError(f"{path}:{rows.line_num}: not a time and two numbers of tokens") from None
            began = began or when
            found.append(Arrival((when - began).total_seconds(), context, max(1, generated)))
            if limit is not None and len(found) >= limit:
                break
    if not found:
        raise ValueError(f"{path}: no arrival in it")
    return found


def made_arrivals(count: int, rate: float = 5.0, seed: int = 1) -> list[Arrival]:
    """Arrivals by chance, where no file of real ones is given: exponential pauses, sizes over two orders of magnitude; always the same."""
    chance = random.Random(seed)
    found, at = [], 0.0
    for _ in range(count):
        found.append(Arrival(at, int(chance.lognormvariate(6.3, 0.9)), max(1, int(chance.lognormvariate(4.6, 0.9)))))
        at += chance.expovariate(rate)
    return found


def within(arrivals: Sequence[Arrival], seconds: float, speed: float) -> list[Arrival]:
    """Those of the first seconds, `speed` times as fast."""
    return [Arrival(one.at / speed, one.context, one.generated) for one in arrivals if one.at / speed < seconds]


def profile(first_token_ms: float = 50, token_ms: float = 5) -> dict[str, Any]:
    """The simulator's profile that answers such messages with as many tokens as they ask for."""
    rule = {"when": {"user": PATTERN}, "tokens": "{tokens}", "first_token_ms": first_token_ms, "token_ms": token_ms}
    return {"first_token_ms": first_token_ms, "token_ms": token_ms, "rules": [rule]}
