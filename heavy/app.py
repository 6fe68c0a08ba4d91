"""The composition root of the heavy tier: where stores, gateway, turns and routes meet. Resources open in order and close in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.endpoints.post import Poster
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.telemetry.traces import open_tracing
from common.telemetry.tracing import NO_TRACING, Tracing
from common.web.auth import KeyRing
from common.web.background import keep, stop
from common.web.errors import exception_handlers
from common.web.key_news import watch_file
from common.web.log_level import LogLevel
from common.web.loop_lag import LoopLag
from common.web.middleware import Edge, InFlight
from common.web.security_headers import SecurityHeaders
from common.web.server import startup_failure
from heavy.admin.routes import admin_routes
from heavy.agent.mcp_servers import McpServers
from heavy.configs.opening import Configs, open_agents, open_servers, read_configs
from heavy.configs.rulebook import Rulebook
from heavy.jobs.dispatch import Dispatcher, Rules
from heavy.jobs.journal import JournalMover
from heavy.jobs.reconcile import TakeOver
from heavy.jobs.schedules import Scheduler
from heavy.jobs.settle import Settling
from heavy.jobs.stores import JobStores
from heavy.jobs.timers import Timers
from heavy.jobs.upkeep import Retention, Upkeep
from heavy.jobs.webhook_spans import Traced
from heavy.jobs.webhooks import Deliverer
from heavy.llm.gateway import open_gateway
from heavy.llm.ledger import Ledger
from heavy.llm.models_file import ModelsFile, watch_models
from heavy.llm.relay import Relay
from heavy.routes.counted import Counted
from heavy.routes.state import Heavy
from heavy.routes.table import query_routes, resource_routes, watch_routes
from heavy.settings import HeavySettings
from heavy.storage.open import open_stores
from heavy.streaming import SessionReader, TurnReader
from heavy.tenants.keeper import AccessKeeper
from heavy.tenants.purse import Purse
from heavy.tenants.quotas import Node, Quotas
from heavy.tenants.spending import Spending
from heavy.turns.agents import Agents
from heavy.turns.entrance import Entrance
from heavy.turns.gates import Gates
from heavy.turns.learning import Learner
from heavy.turns.life import Turns
from heavy.turns.lives import Lives
from heavy.turns.marks import Marks
from heavy.turns.notes import Notes
from heavy.turns.owner import TurnOwner
from heavy.turns.run import RunParts

DRAIN_CHECK_SECONDS = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """What the single process shares with this tier instead of letting it open its own. `demo_llm` is the simulator's base URL."""

    configs: Configs | None = None
    hotstore: HotStore | None = None
    caller: HttpCaller | None = None
    metrics: Metrics | None = None
    inflight: InFlight | None = None
    demo_llm: str | None = None
    rulebook: Rulebook | None = None
    keys: KeyRing | None = None
    tracing: Tracing = NO_TRACING


@contextlib.asynccontextmanager
async def open_heavy(settings: HeavySettings, given: Given = Given()) -> AsyncIterator[Heavy]:
    """Opens everything that the tier needs and starts its background work; on leaving, drains and closes in reverse."""
    configs = given.configs or read_configs(settings, given.rulebook)
    metrics = given.metrics or Metrics()
    models = ModelsFile(settings.models, settings.environ, given.demo_llm)
    async with contextlib.AsyncExitStack() as stack:
        stores = await open_stores(settings.database)
        stack.push_async_callback(stores.aclose)
        hotstore = given.hotstore or open_hotstore(settings.redis_url)
        if given.hotstore is None:
            stack.push_async_callback(hotstore.aclose)
        ring = given.keys or KeyRing.open(settings.api_keys)
        spending, ledger = Spending(stores.ledger, hotstore), Ledger(stores.ledger, metrics)
        purse = Purse(spending, ring, ledger.caught_up, metrics)
        stack.push_async_callback(purse.aclose)
        stack.push_async_callback(ledger.flush)
        access = AccessKeeper(stores.access, hotstore, ring, settings.ticket_key, metrics)
        await access.look()  # nobody is let in before it is known who may come in
        caller = await stack.enter_async_context(_caller(settings, given.caller, configs, metrics))
        agents, centre = await open_agents(configs, stores.configs, hotstore, caller.policy, settings, metrics, given.rulebook)
        gateway = await stack.enter_async_context(open_gateway(models.read(), metrics, hotstore=hotstore, books=ledger, purse=purse))
        relay = await stack.enter_async_context(Relay(gateway))
        mcp = await stack.enter_async_context(McpServers(caller.policy))
        await open_servers(configs, agents, mcp)
        poster = await stack.enter_async_context(Poster(EgressPolicy(settings.egress_allow, public_only=True)))
        owner = TurnOwner(stores.turns, hotstore, settings.lease_seconds)
        entrance = _entrance(settings, owner, metrics)
        quotas = Quotas(ring, stores.access, hotstore, _node(entrance, owner), metrics, spending)
        learner = Learner(stores.learned, hotstore, agents)
        mover = JournalMover(stores.turns, hotstore, metrics, owner.name, agents.first_timer, learner.answered, lambda: entrance.under_way)
        gates, marks = Gates(hotstore, stores.sessions), Marks(hotstore, stores.turns)
        parts = RunParts(stores, hotstore, gateway, caller, gates, learner, mcp)
        lives = Lives(stores=stores, hotstore=hotstore, owner=owner, agents=agents, parts=parts, metrics=metrics, tracing=given.tracing)
        level = LogLevel(hotstore, settings.log_level)
        turns = _turns(entrance, stores, hotstore, owner, agents, lives, mover, marks)
        notes = Notes(stores.sessions, hotstore, gates)
        session_reader = SessionReader(stores.sessions, hotstore, partial(_draining, given.inflight, turns))
        timers = Timers(stores, agents, turns, notes, mover)
        settling = Settling(stores, owner, hotstore, metrics)
        dispatcher = _dispatcher(settings, stores, turns, owner, hotstore, settling, quotas, metrics, agents.plan)
        deliverer = Deliverer(stores.deliveries, hotstore, poster, metrics, settings.ticket_key, traced=Traced(given.tracing, stores.turns))
        taking_over = TakeOver(stores.turns, hotstore, owner, turns)
        upkeep = Upkeep(stores.upkeep, stores.sessions, hotstore, retention(settings), metrics, owner.name)
        leaving = partial(_leave_in_time, turns, given.inflight, settings.drain_seconds)
        background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            *(owner.keep_leases, owner.listen, taking_over.run, taking_over.listen, leaving),
            *(access.keep, quotas.keep, purse.keep, partial(watch_file, ring), partial(watch_models, models, gateway)),
            *(mover.drain, gates.pay, marks.pay, timers.run, deliverer.run, learner.work, session_reader.end_when_draining),
            *(*centre.works, dispatcher.run, dispatcher.listen, settling.run, upkeep.purge, upkeep.measure, ledger.run),
            *(level.follow, LoopLag(metrics, "heavy").watch),
            Scheduler(stores.schedules, dispatcher, metrics).run,
        )
        for work in background:
            stack.push_async_callback(stop, asyncio.create_task(keep(work)))
        stack.push_async_callback(dispatcher.drain)
        stack.push_async_callback(_drain, turns, given.inflight, settings.drain_seconds)
        yield Heavy(
            settings=settings,
            stores=stores,
            hotstore=hotstore,
            agents=agents,
            turns=turns,
            gateway=gateway,
            relay=relay,
            notes=notes,
            reader=TurnReader(stores.turns, hotstore, owner),
            session_reader=session_reader,
            owner=owner,
            mover=mover,
            dispatcher=dispatcher,
            settling=settling,
            learner=learner,
            given_urls=poster.policy,
            keys=ring,
            access=access,
            quotas=quotas,
            metrics=metrics,
            log_level=level,
            centre=centre,
        )


@contextlib.asynccontextmanager
async def _caller(settings: HeavySettings, given: HttpCaller | None, configs: Configs, metrics: Metrics) -> AsyncIterator[HttpCaller]:
    """The caller of business APIs: the one that is given stays open."""
    if given is not None:
        yield given
        return
    async with HttpCaller(EgressPolicy(settings.egress_allow, public_only=configs.public_only), metrics) as caller:
        yield caller


def retention(settings: HeavySettings) -> Retention:
    """How long what has ended is kept."""
    return Retention(settings.retention_days or None, settings.record_days or None)


def _node(entrance: Entrance, owner: TurnOwner) -> Node:
    return Node(lambda: entrance.limit.now, lambda: entrance.room, owner.held)


def _entrance(settings: HeavySettings, owner: TurnOwner, metrics: Metrics) -> Entrance:
    """How many turns this node takes, and how long a message may wait for one that ends."""
    least, patience = settings.min_inflight, settings.queue_seconds
    return Entrance(owner, settings.max_inflight, least=least, patience=patience, metrics=metrics)


def _turns(
    entrance: Entrance,
    stores: JobStores,
    hotstore: HotStore,
    owner: TurnOwner,
    agents: Agents,
    lives: Lives,
    mover: JournalMover,
    marks: Marks,
) -> Turns:
    return Turns(
        stores=stores,
        hotstore=hotstore,
        owner=owner,
        agents=agents,
        lives=lives,
        settle=mover.settle,
        entrance=entrance,
        marks=marks,
    )


def _dispatcher(
    settings: HeavySettings,
    stores: JobStores,
    turns: Turns,
    owner: TurnOwner,
    hotstore: HotStore,
    settling: Settling,
    quotas: Quotas,
    metrics: Metrics,
    rules: Rules,
) -> Dispatcher:
    return Dispatcher(
        stores=stores,
        turns=turns,
        owner=owner,
        hotstore=hotstore,
        settling=settling,
        door=quotas.turn,
        metrics=metrics,
        slots=settings.tasks_at_once,
        rules=rules,
    )


def create_app(settings: HeavySettings, *, metrics: Metrics, inflight: InFlight, rulebook: Rulebook | None = None) -> Starlette:
    """The heavy tier as an ASGI app. `rulebook` knows the rule tier's part of its workflows.

    Raises ConfigInvalid or SettingsError; what cannot be opened is raised by the lifespan."""
    return _app(settings, "heavy", [*query_routes(), *resource_routes(inflight), *admin_routes()], metrics, inflight, rulebook)


def create_worker(settings: HeavySettings, *, metrics: Metrics, inflight: InFlight, rulebook: Rulebook | None = None) -> Starlette:
    """The same without its API: background work, and what watches the process. Raises as `create_app`."""
    return _app(settings, "worker", watch_routes(inflight, "worker"), metrics, inflight, rulebook)


def _app(
    settings: HeavySettings, role: str, routes: list[BaseRoute], metrics: Metrics, inflight: InFlight, rulebook: Rulebook | None
) -> Starlette:
    configs = read_configs(settings, rulebook)
    tracing = open_tracing(settings.environ, role, Redaction.read(settings.redact))
    given = Given(configs, metrics=metrics, inflight=inflight, rulebook=rulebook, tracing=tracing)
    opened: list[Heavy] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        with startup_failure(app):
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(tracing.aclose)
                opened.append(await stack.enter_async_context(open_heavy(settings, given)))
                yield {"heavy": opened[-1]}

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(
                Edge,
                tier=role,
                config_hash=lambda: opened[-1].agents.config_hash if opened else "",
                metrics=metrics,
                inflight=inflight,
                tracing=tracing,
            ),
            Middleware(Counted),
        ],
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )


def _draining(inflight: InFlight | None, turns: Turns) -> bool:
    return turns.draining or (inflight is not None and inflight.closing)


async def _leave_in_time(turns: Turns, inflight: InFlight | None, seconds: float) -> None:
    """Begins to drain as soon as nothing new comes any more, beside the server's own wait for open requests: turns that cannot end in time
    go to other nodes while their readers are still served here. Runs until cancelled."""
    while True:
        if inflight is not None and inflight.closing:
            await _drain(turns, inflight, seconds)
        await asyncio.sleep(DRAIN_CHECK_SECONDS)


async def _drain(turns: Turns, inflight: InFlight | None, seconds: float) -> None:
    """Running turns get what is left of the grace period."""
    await turns.drain(inflight.left(seconds) if inflight else seconds)
