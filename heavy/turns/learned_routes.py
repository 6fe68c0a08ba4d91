"""The learned routes as they are kept: their life from the first sighting to their end, and the protocol of the store that keeps them.

A route is a `candidate` until as many sessions as the workflow asks for have had the same outcome, then `active`; a different outcome makes
it `blocked`. Whatever its state, it ends at `expires_at` and must then be learned anew. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from heavy.intents.proposals import LoggedMessage

LearnedState = Literal["candidate", "active", "blocked"]


@dataclass(frozen=True, slots=True)
class LearnedKey:
    """Which message of which agent version a route is for; `digest` is common.contracts.learned.digest of the message."""

    tenant: str
    agent_id: str
    config_hash: str
    digest: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the LLM chose for a message this time. `route` is the encoded LearnedRoute, None for a choice that can't be learned.

    `message` is folded. `witness` stands for the session: a route is not learned from one session alone.
    """

    key: LearnedKey
    message: str
    route: str | None
    witness: str
    repeat: int
    ttl_seconds: float


@dataclass(frozen=True, slots=True)
class LearnedRow:
    """A route as it is kept. `message` (folded) is empty unless it is active: what one person has said once is not kept here."""

    key: LearnedKey
    message: str
    route: str
    seen: int
    witness: str
    state: LearnedState
    hits: int
    created_at: float
    updated_at: float
    expires_at: float


def after(row: LearnedRow | None, sighting: Sighting, now: float) -> LearnedRow | None:
    """The row once this has been seen too; the same row where nothing changes, None where there is nothing to keep."""
    until = now + sighting.ttl_seconds
    if row is None or row.expires_at <= now:
        if sighting.route is None:
            return None
        row = LearnedRow(sighting.key, "", sighting.route, 0, "", "candidate", 0, now, now, until)
    if row.state == "blocked":
        return row
    if sighting.route != row.route:
        return replace(row, message="", state="blocked", updated_at=now, expires_at=until)
    if row.state == "active" or row.witness == sighting.witness:
        return row
    counted = replace(row, seen=row.seen + 1, witness=sighting.witness, updated_at=now, expires_at=until)
    return counted if counted.seen < sighting.repeat else replace(counted, state="active", message=sighting.message)


class LearnedStore(Protocol):
    """Learned routes. Raises DatabaseUnavailable when the database is away."""

    async def observe(self, sighting: Sighting, now: float) -> LearnedRow | None:
        """Applies `after` to the route's row in one transaction; the row as it is then, None without one."""

    async def active(self, agent_id: str, config_hash: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """The active routes of a version, those of all tenants, the most often hit first."""

    async def of_agent(self, tenant: str, agent_id: str, *, now: float, limit: int) -> Sequence[LearnedRow]:
        """All routes of a tenant's agent that have not expired, of whatever version and state: active ones first, by hits."""

    async def forget(self, tenant: str, agent_id: str, digest: str | None = None) -> Sequence[LearnedKey]:
        """Erases the routes of an agent, or those of one message; which they were."""

    async def count_hits(self, hits: Mapping[LearnedKey, int]) -> None:
        """Adds to the hits of routes; those that are not there any more are passed over."""

    async def prune(self, now: float) -> None:
        """Erases what has expired."""

    async def log(self, tenant: str, agent_id: str, *, limit: int) -> Sequence[LoggedMessage]:
        """The agent's last messages that were answered, newest first, with what answered them."""
