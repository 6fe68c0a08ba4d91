"""Composition root of the lightweight tier: the only place that chooses its hot store, its hand-off and its HTTP caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette

from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.hotstore.conversations import Conversations
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.settings import SettingsError
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.telemetry.traces import open_tracing
from common.web.auth import DATABASE, KeyRing
from common.web.background import keep, stop
from common.web.errors import exception_handlers
from common.web.key_news import KeyNews, watch_file
from common.web.log_level import LogLevel
from common.web.loop_lag import LoopLag
from common.web.middleware import InFlight
from common.web.rate import RequestRate
from common.workflow.load import load_all
from common.workflow.schema import Workflow
from lightweight.agents import compile_agents
from lightweight.answer import RuleAnswers
from lightweight.door import Door
from lightweight.handoff import Accel, Handoff, Proxy
from lightweight.idempotency import Idempotency
from lightweight.matching.compile import check_pattern
from lightweight.query.chat import ChatEndpoint
from lightweight.query.endpoint import QueryEndpoint
from lightweight.query.lines import turn_lines
from lightweight.routes import Check, HotFirst, build_routes
from lightweight.settings import LightweightSettings

log = logging.getLogger(__name__)


def create_app(
    settings: LightweightSettings,
    *,
    workflows: Mapping[str, Workflow] | None = None,
    hotstore: HotStore | None = None,
    handoff: Handoff | None = None,
    endpoints: HttpCaller | None = None,
    metrics: Metrics | None = None,
    inflight: InFlight | None = None,
) -> Starlette:
    """The tier as an ASGI app. What is given is used and left open; the rest is made from the settings and closed with the app.

    Raises SettingsError, ValueError or ConfigInvalid (a ConfigInvalid tells every problem of the files) before anything is opened.
    """
    agents = compile_agents(load_workflows(settings) if workflows is None else workflows)
    metrics = metrics or Metrics()
    inflight = inflight or InFlight()
    if settings.api_keys and str(settings.api_keys) == DATABASE and hotstore is None and settings.redis_url.startswith("memory:"):
        raise SettingsError("LOADSPLIT_API_KEYS=db: needs LOADSPLIT_REDIS_URL: this tier learns the keys of the database through it")
    keys = KeyRing.open(settings.api_keys)
    store = hotstore or open_hotstore(settings.redis_url)
    caller = endpoints or HttpCaller(EgressPolicy(settings.egress_allow, agents.hosts), metrics)
    onward = handoff or (Accel() if settings.handoff == "accel" else Proxy(settings.heavy_url))
    door = Door(settings.max_inflight, settings.min_inflight, metrics)
    tracing = open_tracing(settings.environ, "lightweight", Redaction.read(settings.redact))
    answers, idempotency = RuleAnswers(store, caller, metrics), Idempotency(store)
    news = KeyNews(keys, store, settings.ticket_key, settings.data_dir, metrics)
    collaborators: dict[str, Any] = {
        "keys": keys,
        "rate": RequestRate(store, metrics),
        "ticket_key": settings.ticket_key,
        "metrics": metrics,
        "inflight": inflight,
        "door": door,
        "lines": turn_lines(settings.rule_turns_logged),
        "tracing": tracing,
    }
    checks: dict[str, Check] = {"hotstore": store.ping, "keys": keys.check}
    if isinstance(onward, Proxy):
        checks["heavy"] = onward.ping

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            opened.push_async_callback(tracing.aclose)
            if hotstore is None:
                opened.push_async_callback(store.aclose)
            if endpoints is None:
                await opened.enter_async_context(caller)
            if handoff is None:
                opened.push_async_callback(onward.aclose)
            await news.begin()
            level, lag = LogLevel(store, settings.log_level), LoopLag(metrics, "lightweight")
            for work in (news.follow, partial(watch_file, keys), level.follow, lag.watch, door.watch):
                opened.push_async_callback(stop, asyncio.create_task(keep(work)))
            log.info("lightweight serves", extra={"config_hash": agents.config_hash, "handoff": onward.mode, "rules": agents.rule_count})
            yield

    return HotFirst(
        QueryEndpoint(agents, answers, onward, idempotency, **collaborators),
        QueryEndpoint(agents, answers, onward, idempotency, **collaborators, streaming=True),
        ChatEndpoint(agents, answers, onward, idempotency, **collaborators, conversations=Conversations(store)),
        routes=build_routes(onward, config_hash=lambda: agents.config_hash, metrics=metrics, inflight=inflight, checks=checks),
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )


def load_workflows(settings: LightweightSettings) -> dict[str, Workflow]:
    """The agents of LOADSPLIT_CONFIG. Raises SettingsError without it, ConfigInvalid with every problem of the files."""
    if not settings.config:
        raise SettingsError("LOADSPLIT_CONFIG is not set: name a workflow file, or a directory of them")
    if settings.config.startswith("db:"):
        raise SettingsError("LOADSPLIT_CONFIG: db: is not offered yet; name a workflow file, or a directory of them")
    return load_all(settings.config, settings.environ, check_pattern=check_pattern)
