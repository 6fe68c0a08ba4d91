"""The words between the gateway and those who make calls through it or keep its books. Types only.

A call goes in legs: each is one target's turn at it. Whoever makes a call (LLMGateway for agents, the relay for `models/<alias>`) walks the
legs of an `Ask` until one succeeds or a failure is final:

    async for leg in gateway.legs(ask):       # raises RateLimited, Overloaded, BudgetExceeded, DeadlineExceeded, DependencyUnavailable, or
                                              # the last failure
        try:
            …                                 # the call at leg.target; leg.first_token() at its first token
            leg.done(usage)                   # the last leg
        except LLMCallFailed as e:
            leg.failed(e)                     # the next leg comes; a failure that is final, or came after the first token, is raised
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from common.contracts.query import Usage
from heavy.llm.types import LLMCallFailed, Spender, Target


@dataclass(frozen=True, slots=True)
class Ask:
    """One call that is wanted. `tokens` is an estimate of its input, `most_output` what the answer may have at most; `timeout` seconds are
    left, None without a limit; `provider` takes only targets of one wire protocol (a relayed body can't change it). `streamed` is for the
    ledger."""

    alias: str
    spender: Spender = field(default_factory=Spender)
    tokens: int = 0
    most_output: int = 0
    timeout: float | None = None
    provider: Literal["openai", "anthropic"] | None = None
    streamed: bool = False


class Leg(Protocol):
    """One target's turn at a call. Exactly one of `done`, `failed` and `left` is called at its end."""

    target: Target
    timeout: float | None

    def first_token(self) -> None:
        """The first piece of the answer is here: from now on nothing is repeated invisibly."""

    def told(self, headers: Mapping[str, str]) -> None:
        """The headers of the provider's reply, which say how much room there is. Names are lower case, or the mapping ignores case."""

    def done(self, usage: Usage) -> None:
        """The call has succeeded. Sets usage.cost_usd."""

    def failed(self, error: LLMCallFailed) -> None:
        """The call has failed; error.usage is counted, too, where the provider has told it."""

    def left(self, usage: Usage | None = None, *, estimated: bool = False) -> None:
        """The caller has gone before the end; `usage` is what is known or, `estimated`, guessed of it."""


@dataclass(slots=True)
class CallRecord:
    """A line of the ledger: one call at one target. Times are Unix seconds and seconds; `outcome` is ok, cancelled, or the failure's kind.

    `usage` is the provider's own count, or an estimate of ours where it told none (then `estimated`).
    """

    call_id: str
    spender: Spender
    alias: str
    target: str
    model: str
    outcome: str
    began: float
    seconds: float
    first_token_seconds: float | None
    usage: Usage = field(default_factory=Usage)
    estimated: bool = False
    streamed: bool = False
    cached_reply: bool = False


class Books(Protocol):
    """Keeps the ledger."""

    def record(self, call: CallRecord) -> None:
        """Takes a line; it is in the database a moment later. Never raises, never waits."""


class Purse(Protocol):
    """Holds budgets: what a call may cost at most is set aside before it, and what it has cost is counted after it."""

    async def reserve(self, spender: Spender, tokens: int, cost_usd: float) -> Callable[[Usage | None], None]:
        """Sets so much aside; the result is called once with what was used (None: nothing). Raises BudgetExceeded, naming the limit."""
