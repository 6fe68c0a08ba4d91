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
from common.web.config_files import FileConfigs
from common.web.config_news import ConfigNews
from common.web.config_source import DATABASE as DATABASE_CONFIG
from common.web.config_source import ConfigSource, GivenConfigs, manifest_of
from common.web.errors import exception_handlers
from common.web.key_news import KeyNews, watch_file
from common.web.log_level import LogLevel
from common.web.loop_lag import LoopLag
from common.web.middleware import InFlight
from common.web.rate import RequestRate
from common.workflow.schema import Workflow
from lightweight.agents import Agent, Agents, compile_agent, hosts_of
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
    metrics = metrics or Metrics()
    inflight = inflight or InFlight()
    if settings.api_keys and str(settings.api_keys) == DATABASE and hotstore is None and settings.redis_url.startswith("memory:"):
        raise SettingsError("LOADSPLIT_API_KEYS=db: needs LOADSPLIT_REDIS_URL: this tier learns the keys of the database through it")
    keys = KeyRing.open(settings.api_keys)
    if settings.config == DATABASE_CONFIG and workflows is None and hotstore is None and settings.redis_url.startswith("memory:"):
        raise SettingsError("LOADSPLIT_CONFIG=db: needs LOADSPLIT_REDIS_URL: this tier learns the versions of agents through it")
    store = hotstore or open_hotstore(settings.redis_url)
    source, first = open_source(settings, workflows, store, metrics)
    policy = EgressPolicy(settings.egress_allow, public_only=source.public_only)
    agents = open_agents(source, first, policy, settings.config_memory)
    caller = endpoints or HttpCaller(policy, metrics)
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
    checks: dict[str, Check] = {"hotstore": store.ping, "keys": keys.check, "config": source.check}
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
            await asyncio.gather(news.begin(), source.begin(agents))
            level, lag = LogLevel(store, settings.log_level), LoopLag(metrics, "lightweight")
            for work in (news.follow, source.follow, partial(watch_file, keys), level.follow, lag.watch, door.watch):
                opened.push_async_callback(stop, asyncio.create_task(keep(work)))
            log.info("lightweight serves", extra={"config_hash": agents.config_hash, "handoff": onward.mode, "rules": agents.rule_count})
            yield

    return HotFirst(
        QueryEndpoint(agents, answers, onward, idempotency, **collaborators),
        QueryEndpoint(agents, answers, onward, idempotency, **collaborators, streaming=True),
        ChatEndpoint(agents, answers, onward, idempotency, **collaborators, conversations=Conversations(store)),
        routes=build_routes(
            onward,
            config_hash=lambda: agents.config_hash,
            metrics=metrics,
            inflight=inflight,
            checks=checks,
            ready={"agents": agents.ready},
        ),
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )


def open_source(
    settings: LightweightSettings, given: Mapping[str, Workflow] | None, store: HotStore, metrics: Metrics
) -> tuple[ConfigSource, Mapping[str, Workflow]]:
    """Where the agents come from, and those that are compiled before anything runs. Raises SettingsError without LOADSPLIT_CONFIG,
    ConfigInvalid with every problem of its files."""
    if given is not None:
        return GivenConfigs(given), given
    if not settings.config:
        raise SettingsError("LOADSPLIT_CONFIG is not set: name a workflow file, a directory of them, or db: for the config centre")
    if settings.config == DATABASE_CONFIG:
        return ConfigNews(store, settings.ticket_key, settings.data_dir, settings.environ, check_pattern, metrics), {}
    files = FileConfigs.of(settings, check_pattern)
    return files, files.read()


def open_agents(source: ConfigSource, first: Mapping[str, Workflow], policy: EgressPolicy, memory: int) -> Agents:
    """The agents of a source, those of `first` compiled, within `memory` bytes. Their hosts are trusted by the policy. Raises
    RulesInvalid."""

    def compile_trusted(workflow: Workflow) -> Agent:
        agent = compile_agent(workflow)
        policy.trust(hosts_of(agent))
        return agent

    agents = Agents(compile_trusted, source.bring, limit_bytes=memory)
    if first:
        agents.start(manifest_of(first), {agent_id: compile_trusted(workflow) for agent_id, workflow in first.items()})
    return agents
