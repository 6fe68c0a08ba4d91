"""What the database keeps of LLM calls, as a protocol that `heavy.storage` implements: a line for each call, and sums by UTC day that
outlive the lines. Times are Unix seconds, money is in billionths of a US dollar (heavy.llm.prices).

Errors: DependencyUnavailable when the database is away. Everything may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heavy.llm.legs import CallRecord

GROUPS = ("day", "tenant", "agent", "skill", "key", "model", "target", "purpose")
"""By what costs may be summed."""


@dataclass(frozen=True, slots=True)
class Costs:
    """A sum over calls. `group` has the values of the names that were asked for, None for calls without one. `failed` calls are those that
    neither succeeded nor were cancelled; `estimated` ones are those whose tokens the provider did not tell."""

    group: Mapping[str, str | None]
    calls: int = 0
    failed: int = 0
    estimated: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are asked for: those that began in [since, until), of one tenant or of all (None), and with these values."""

    tenant: str | None
    since: float
    until: float
    session_id: str | None = None
    turn_id: str | None = None
    agent_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Expense:
    """What was spent in a day: tokens (input and output) and billionths of a US dollar."""

    tokens: int = 0
    cost_nano: int = 0


class LedgerStore(Protocol):
    """The ledger."""

    async def record(self, calls: Sequence[CallRecord]) -> int:
        """Stores lines and adds them to the sums of their days (by `began`); those whose call_id the tenant has already are left out.
        Returns how many were new. One commit for all of them."""

    async def calls(self, wanted: Wanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[CallRecord]:
        """Lines, the newest first; `before` is (began, call_id) of the last one of the page before."""

    async def costs(self, tenant: str | None, *, first: str, last: str, group_by: Sequence[str], limit: int) -> Sequence[Costs]:
        """Sums over the days from `first` to `last` (YYYY-MM-DD, UTC, both included), in the order of their groups. `group_by` are some of
        GROUPS; without any there is one sum, or none where there were no calls."""

    async def spent(self, tenant: str, key_id: str | None, *, day: str) -> Expense:
        """What a tenant, or one of its keys, has spent on a day."""
