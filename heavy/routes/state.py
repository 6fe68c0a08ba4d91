"""What the routes of the heavy tier work with, as one typed value that the app's lifespan yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.auth import Caller, KeyRing
from heavy.jobs.journal import JournalMover
from heavy.settings import HeavySettings
from heavy.streaming import TurnReader
from heavy.turns.agents import Agents
from heavy.turns.life import Turns
from heavy.turns.owner import TurnOwner
from heavy.turns.stores import Stores


@dataclass(frozen=True, slots=True)
class Heavy:
    """The open tier."""

    settings: HeavySettings
    stores: Stores
    hotstore: HotStore
    agents: Agents
    turns: Turns
    reader: TurnReader
    owner: TurnOwner
    mover: JournalMover
    keys: KeyRing
    metrics: Metrics


def heavy_of(scope: Scope) -> Heavy:
    """The open tier that serves this request."""
    state: Mapping[str, Any] = scope["state"]
    heavy: Heavy = state["heavy"]
    return heavy


def caller_of(scope: Scope) -> Caller:
    """Who asks, by API key (everyone is tenant `default` while no key is configured). Raises Unauthorized."""
    return heavy_of(scope).keys.authenticate(scope["headers"])
