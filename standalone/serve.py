"""Both tiers in one process: an app whose two hot paths are the rule tier's and whose rest is heavy's. A hand-off is a function call."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.contracts.ticket import HEADER, SESSION_HEADER
from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.hotstore.conversations import Conversations
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.settings import SettingsError
from common.telemetry.logs import setup_logging
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.telemetry.traces import open_tracing
from common.web.auth import KeyRing
from common.web.background import keep, stop
from common.web.config_news import ConfigNews
from common.web.config_source import DATABASE
from common.web.errors import exception_handlers
from common.web.listening import open_sockets, require_safe_host
from common.web.middleware import Edge, InFlight
from common.web.rate import RequestRate
from common.web.security_headers import SecurityHeaders
from common.web.server import serve as serve_app
from common.web.server import startup_failure
from heavy.admin.routes import admin_routes
from heavy.app import Given, open_heavy
from heavy.configs.opening import Configs, read_configs
from heavy.routes.chat import ChatEndpoint as HeavyChat
from heavy.routes.counted import Counted
from heavy.routes.query import QueryEndpoint as HeavyQuery
from heavy.routes.table import resource_routes
from heavy.settings import HeavySettings
from lightweight.agents import Agents
from lightweight.answer import RuleAnswers
from lightweight.app import open_agents
from lightweight.door import Door
from lightweight.idempotency import Idempotency
from lightweight.matching.compile import check_pattern
from lightweight.query.chat import ChatEndpoint
from lightweight.query.endpoint import QueryEndpoint
from lightweight.query.lines import turn_lines
from lightweight.routes import HotFirst
from standalone.demo import Demo
from standalone.rulebook import Rules

INTERNAL = (HEADER.encode(), SESSION_HEADER.encode())


class Local:
    """The hand-off of the single process: calls heavy's endpoint with the ticket, in the same request."""

    mode = "local"

    def __init__(self, heavy_query: ASGIApp) -> None:
        self._heavy_query = heavy_query

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        """Serves the request whose body has been read."""
        headers = [(k, v) for k, v in scope["headers"] if k not in INTERNAL]
        replayed = False

        async def receive_again() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        vouched = [(INTERNAL[0], ticket.encode())] if ticket else []
        await self._heavy_query({**scope, "headers": [*headers, *vouched]}, receive_again, send)

    async def aclose(self) -> None:
        """Nothing is open."""


def create_app(settings: HeavySettings, *, inflight: InFlight, demo: Demo | None = None) -> Starlette:
    """The whole of loadsplit as one ASGI app. Raises ConfigInvalid with every problem of the files."""
    metrics = Metrics()
    metrics.watch_process()
    hotstore = open_hotstore(settings.redis_url)
    tracing = open_tracing(settings.environ, "single", Redaction.read(settings.redact))
    policy = EgressPolicy(settings.egress_allow, public_only=settings.config == DATABASE)
    configs, agents, source = _open_configs(settings, hotstore, policy, metrics)
    caller = HttpCaller(policy, metrics)  # one for both tiers
    edge = Middleware(Edge, tier="heavy", config_hash=lambda: agents.config_hash, metrics=metrics, inflight=inflight, tracing=tracing)
    answers, idempotency = RuleAnswers(hotstore, caller, metrics), Idempotency(hotstore)
    keys, rate = KeyRing.open(settings.api_keys), RequestRate(hotstore, metrics)

    door = Door(settings.max_inflight, settings.min_inflight, metrics)
    watched: dict[str, Any] = {"metrics": metrics, "inflight": inflight, "rate": rate, "keys": keys, "ticket_key": settings.ticket_key}
    watched |= {"lines": turn_lines(settings.rule_turns_logged), "tracing": tracing, "door": door}

    def local(endpoint: ASGIApp) -> Local:
        return Local(edge.cls(Counted(endpoint), *edge.args, **edge.kwargs))

    def query(*, streaming: bool) -> QueryEndpoint:
        return QueryEndpoint(agents, answers, local(HeavyQuery(streaming=streaming)), idempotency, **watched, streaming=streaming)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        with startup_failure(app):
            async with contextlib.AsyncExitStack() as stack:
                demo_llm = await stack.enter_async_context(demo.running()) if demo else None
                stack.push_async_callback(tracing.aclose)
                stack.push_async_callback(hotstore.aclose)
                await stack.enter_async_context(caller)
                stack.push_async_callback(stop, asyncio.create_task(keep(door.watch)))
                if configs.files is not None:
                    await configs.files.begin(agents)
                given = Given(configs, hotstore, caller, metrics, inflight, demo_llm, Rules(agents.compiled), keys, tracing)
                heavy = await stack.enter_async_context(open_heavy(settings, given))
                if source is not None:  # heavy has told the hot store by now
                    await source.begin(agents)
                    stack.push_async_callback(stop, asyncio.create_task(keep(source.follow)))
                yield {"heavy": heavy}

    return HotFirst(
        query(streaming=False),
        query(streaming=True),
        ChatEndpoint(agents, answers, local(HeavyChat()), idempotency, **watched, conversations=Conversations(hotstore)),
        routes=[*resource_routes(inflight), *admin_routes()],
        middleware=[Middleware(SecurityHeaders), edge, Middleware(Counted)],
        exception_handlers=exception_handlers(),
        lifespan=lifespan,
    )


def _open_configs(
    settings: HeavySettings, hotstore: HotStore, policy: EgressPolicy, metrics: Metrics
) -> tuple[Configs, Agents, ConfigNews | None]:
    """Where both tiers have their agents from, and the rule tier's; files are one source for both, the centre is followed by each tier as
    it would be in processes of their own. Raises ConfigInvalid."""
    configs = read_configs(settings, Rules())
    if configs.files is not None:
        return configs, open_agents(configs.files, configs.first, policy, settings.config_memory), None
    news = ConfigNews(hotstore, settings.ticket_key, settings.data_dir, settings.environ, check_pattern, metrics)
    return configs, open_agents(news, {}, policy, settings.config_memory), news


def serve(*, config: str | None, host: str, port: int, data_dir: Path | None, demo: bool, insecure: bool) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains. Raises CannotServe, SettingsError or a LoadsplitError when it cannot start."""
    settings = HeavySettings.load(config=config, data_dir=data_dir)
    if settings.config is None:
        raise SettingsError("LOADSPLIT_CONFIG is not set: name a workflow file, or a directory of them, with --config; or db:")
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    with open_sockets(host, port, settings.admin_port) as sockets:
        setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
        inflight = InFlight()
        app = create_app(settings, inflight=inflight, demo=Demo(settings.environ) if demo else None)

        def ready() -> None:
            _announce(host, port, settings.admin_port or port)

        serve_app(app, sockets, drain_seconds=settings.drain_seconds, on_drain=inflight.drain, on_ready=ready)


def _announce(host: str, port: int, admin_port: int) -> None:
    base = f"http://{host}:{port}"
    body = '{"message": "where is order A1001?", "session_id": "me"}'
    lines = [
        f"loadsplit serves {base}   (chat page; API description at /docs)",
        f"operators: http://{host}:{admin_port}/admin and /metrics",
        "try:",
        f"  curl -s {base}/api/v1/query -H 'content-type: application/json' -d '{body}'",
        f"  loadsplit chat --url {base}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
