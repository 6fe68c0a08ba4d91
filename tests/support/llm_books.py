"""Books and a purse that remember what they were told."""

from __future__ import annotations

from collections.abc import Callable

from common.contracts.query import Usage
from common.errors import BudgetExceeded
from heavy.llm.legs import CallRecord
from heavy.llm.types import Spender


class RecordingBooks:
    """Implements heavy.llm.legs.Books."""

    def __init__(self) -> None:
        self.lines: list[CallRecord] = []

    def record(self, call: CallRecord) -> None:
        """Takes a line."""
        self.lines.append(call)


class RecordingPurse:
    """Implements heavy.llm.legs.Purse over a number of tokens. `settled` holds what was used, call by call."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.asked: list[tuple[Spender, int, float]] = []
        self.settled: list[Usage | None] = []

    async def reserve(self, spender: Spender, tokens: int, cost_usd: float) -> Callable[[Usage | None], None]:
        """Sets so much aside."""
        self.asked.append((spender, tokens, cost_usd))
        if tokens > self.left:
            raise BudgetExceeded("the tokens of this tenant are used up")
        self.left -= tokens

        def settle(usage: Usage | None) -> None:
            self.settled.append(usage)
            self.left += tokens - (usage.input_tokens + usage.output_tokens if usage else 0)

        return settle
