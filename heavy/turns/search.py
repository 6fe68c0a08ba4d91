"""What an administrator asks of the turns: which ones, and what they come to together. `heavy.storage` implements the protocol.

Times are Unix seconds. Sums read the turns themselves, the newest ones of the time asked for and no more than `most`, so that a question
about a year of traffic costs no more than one about an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.contracts.query import Usage
from heavy.turns.rows import TurnRow


@dataclass(frozen=True, slots=True)
class TurnsWanted:
    """Which turns are asked for: those made in [since, until), of one tenant or of all (None), and with these values. `tier` and
    `matched_by` are those of the reply's route."""

    tenant: str | None
    since: float
    until: float
    request_id: str | None = None
    session_id: str | None = None
    turn_id: str | None = None
    agent_id: str | None = None
    state: str | None = None
    tier: str | None = None
    matched_by: str | None = None
    config_hash: str | None = None


@dataclass(frozen=True, slots=True)
class RouteSum:
    """Turns of one tenant and agent that went one way. The route is None where a turn has no reply (it failed, or still runs). `last_at` is
    when the newest one came; `with_llm` counts those that called a model."""

    tenant: str
    agent_id: str
    state: str
    tier: str | None
    matched_by: str | None
    action_type: str | None
    action_target: str | None
    pattern: str | None
    turns: int
    with_llm: int
    last_at: float
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the turns of a tier took that have ended, in seconds."""

    tier: str | None
    turns: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A message that no rule and no learned route was there for, in lower case, and how often it came."""

    agent_id: str
    message: str
    turns: int
    last_at: float


class TurnSearch(Protocol):
    """Reads turns. Raises DatabaseUnavailable when the database is away."""

    async def turns(self, wanted: TurnsWanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[TurnRow]:
        """Turns, the newest first; `before` is (created_at, turn_id) of the last one of the page before."""

    async def routes(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[RouteSum]:
        """Sums by tenant, agent, state and route, those with most turns first."""

    async def latency(self, wanted: TurnsWanted, *, most: int) -> Sequence[Latency]:
        """For each tier how long its turns took."""

    async def unmatched(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[Unmatched]:
        """The messages that a model or nobody routed, the most frequent first."""
