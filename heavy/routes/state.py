"""What the routes of the heavy tier work with, as one typed value that the app's lifespan yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from common.contracts.llm_errors import ANTHROPIC_PREFIX
from common.endpoints.egress import EgressPolicy
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.asgi import Headers
from common.web.auth import Caller, KeyRing
from common.web.log_level import LogLevel
from heavy.configs.centre import Centre
from heavy.jobs.dispatch import Dispatcher
from heavy.jobs.journal import JournalMover
from heavy.jobs.settle import Settling
from heavy.jobs.stores import JobStores
from heavy.llm.relay import Relay
from heavy.llm.types import Gateway
from heavy.settings import HeavySettings
from heavy.streaming import SessionReader, TurnReader
from heavy.tenants.keeper import AccessKeeper
from heavy.tenants.quotas import Quotas
from heavy.turns.agents import Agents
from heavy.turns.learning import Learner
from heavy.turns.life import Turns
from heavy.turns.notes import Notes
from heavy.turns.owner import TurnOwner


@dataclass(frozen=True, slots=True)
class Heavy:
    """The open tier. `given_urls` says where callers' URLs may lead."""

    settings: HeavySettings
    stores: JobStores
    hotstore: HotStore
    agents: Agents
    turns: Turns
    gateway: Gateway
    relay: Relay
    notes: Notes
    reader: TurnReader
    session_reader: SessionReader
    owner: TurnOwner
    mover: JournalMover
    dispatcher: Dispatcher
    settling: Settling
    learner: Learner
    given_urls: EgressPolicy
    keys: KeyRing
    access: AccessKeeper
    quotas: Quotas
    metrics: Metrics
    log_level: LogLevel
    centre: Centre


def heavy_of(scope: Scope) -> Heavy:
    """The open tier that serves this request."""
    state: Mapping[str, Any] = scope["state"]
    heavy: Heavy = state["heavy"]
    return heavy


def caller_of(scope: Scope) -> Caller:
    """Who asks: the one that an admin page asks for, else by API key (everyone is tenant `default` while no key is configured). Raises
    Unauthorized."""
    known: Caller | None = scope["state"].get("caller")
    return known or heavy_of(scope).keys.authenticate(credentials(scope))


def credentials(scope: Scope) -> Headers:
    """The headers that hold the caller's key. On Anthropic's paths it may stand in x-api-key, where the clients of that API put it."""
    headers: Headers = scope["headers"]
    if not scope["path"].startswith(ANTHROPIC_PREFIX):
        return headers
    given = dict(headers)
    if b"authorization" in given or b"x-api-key" not in given:
        return headers
    return [(b"authorization", b"Bearer " + given[b"x-api-key"])]
