"""Every route of the heavy tier in one list."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from common.contracts.chat import PATH as CHAT
from common.web import health as pages
from common.web.middleware import InFlight
from common.web.openapi import docs, openapi_json
from heavy.routes import configs
from heavy.routes.access import list_keys, list_tenants, post_key, put_tenant, revoke_key
from heavy.routes.approvals import decide_approval
from heavy.routes.audited import audited, list_audit
from heavy.routes.batches import PostBatch, delete_batch, get_batch, get_results
from heavy.routes.chat import ChatEndpoint
from heavy.routes.costs import get_costs, list_calls
from heavy.routes.deliveries import get_delivery, list_deliveries, replay_delivery, replay_failed
from heavy.routes.events import SessionEvents, session_socket
from heavy.routes.found_sessions import find_sessions
from heavy.routes.handoff import list_sessions, post_handoff
from heavy.routes.learned import forget_learned, list_learned, match, propose_rules
from heavy.routes.log_level import delete_log_level, get_log_level, put_log_level
from heavy.routes.models import get_model, list_models
from heavy.routes.page import asset, index
from heavy.routes.purge import get_purge
from heavy.routes.query import QueryEndpoint
from heavy.routes.relay import COUNT_TOKENS, MESSAGES, Messages
from heavy.routes.schedules import delete_schedule, get_schedule, list_schedules, patch_schedule, post_schedule
from heavy.routes.sessions import delete_session, get_session
from heavy.routes.state import heavy_of
from heavy.routes.stats import get_stats
from heavy.routes.tasks import delete_task, get_task, list_tasks, post_async, retry_task
from heavy.routes.traces import get_trace, list_turns
from heavy.routes.turns import cancel_turn, get_turn, stream_turn
from heavy.routes.webhooks import (
    change_webhook,
    delete_webhook,
    get_webhook,
    list_webhooks,
    register_webhook,
    send_test,
    show_secret,
)


class StreamTurn:
    """`stream_turn` as an ASGI app: Starlette would take a bare function for a request handler."""

    __call__ = staticmethod(stream_turn)


def query_routes() -> list[BaseRoute]:
    """What the rule tier hands over; the single process has the rule tier in its place."""
    return [
        Route("/api/v1/query", QueryEndpoint(streaming=False), methods=["POST"]),
        Route("/api/v1/query/stream", QueryEndpoint(streaming=True), methods=["POST"]),
        Route(CHAT, ChatEndpoint(), methods=["POST"]),
    ]


def resource_routes(inflight: InFlight) -> list[BaseRoute]:
    """Turns, tasks, sessions, health and documents."""
    return [
        *_job_routes(),
        *_model_routes(),
        Route("/api/v1/turns/{turn_id}", get_turn, methods=["GET"]),
        Route("/api/v1/turns/{turn_id}/stream", StreamTurn(), methods=["GET"]),
        Route("/api/v1/turns/{turn_id}/cancel", cancel_turn, methods=["POST"]),
        Route("/api/v1/turns/{turn_id}/approval", decide_approval, methods=["POST"]),
        Route("/api/v1/sessions", list_sessions, methods=["GET"]),
        Route("/api/v1/session/{session_id}", get_session, methods=["GET"]),
        Route("/api/v1/session/{session_id}", delete_session, methods=["DELETE"]),
        Route("/api/v1/session/{session_id}/events", SessionEvents(), methods=["GET"]),
        WebSocketRoute("/api/v1/session/{session_id}/ws", session_socket),
        Route("/api/v1/session/{session_id}/handoff", post_handoff, methods=["POST"]),
        Route("/admin/api/agents/{agent_id}/learned", list_learned, methods=["GET"]),
        Route("/admin/api/agents/{agent_id}/learned", audited("learned.forget", forget_learned), methods=["DELETE"]),
        Route("/admin/api/agents/{agent_id}/learned/proposals", propose_rules, methods=["GET"]),
        Route("/admin/api/agents/{agent_id}/match", match, methods=["POST"]),
        *config_routes(),
        *webhook_routes(),
        Route("/admin/api/keys", audited("key.create", post_key), methods=["POST"]),
        Route("/admin/api/keys", list_keys, methods=["GET"]),
        Route("/admin/api/keys/{key_id}", audited("key.revoke", revoke_key), methods=["DELETE"]),
        Route("/admin/api/tenants", list_tenants, methods=["GET"]),
        Route("/admin/api/tenants/{tenant}", audited("tenant.limits", put_tenant), methods=["PUT"]),
        Route("/admin/api/costs", get_costs, methods=["GET"]),
        Route("/admin/api/calls", list_calls, methods=["GET"]),
        Route("/admin/api/turns", list_turns, methods=["GET"]),
        Route("/admin/api/turns/{turn_id}", get_trace, methods=["GET"]),
        Route("/admin/api/stats", get_stats, methods=["GET"]),
        Route("/admin/api/log-level", get_log_level, methods=["GET"]),
        Route("/admin/api/log-level", audited("log.level", put_log_level), methods=["PUT"]),
        Route("/admin/api/log-level", audited("log.level", delete_log_level), methods=["DELETE"]),
        Route("/admin/api/purge", get_purge, methods=["GET"]),
        Route("/admin/api/sessions", find_sessions, methods=["GET"]),
        Route("/admin/api/audit", list_audit, methods=["GET"]),
        *watch_routes(inflight),
        Route("/", index, methods=["GET"]),
        Route("/assets/{name}", asset, methods=["GET"]),
        Route("/openapi.json", openapi_json, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
    ]


def watch_routes(inflight: InFlight, role: str = "heavy") -> list[BaseRoute]:
    """What watches a process: all that a worker serves."""
    return [
        Route("/api/v1/health", partial(health, role), methods=["GET"]),
        Route("/livez", pages.livez(), methods=["GET"]),
        Route("/readyz", _ready(inflight), methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]


def _job_routes() -> list[BaseRoute]:
    return [
        Route("/api/v1/query/async", post_async, methods=["POST"]),
        Route("/api/v1/tasks", list_tasks, methods=["GET"]),
        Route("/api/v1/task/{task_id}", get_task, methods=["GET"]),
        Route("/api/v1/task/{task_id}", delete_task, methods=["DELETE"]),
        Route("/api/v1/task/{task_id}/retry", retry_task, methods=["POST"]),
        Route("/api/v1/batch", PostBatch(), methods=["POST"]),
        Route("/api/v1/batch/{batch_id}", get_batch, methods=["GET"]),
        Route("/api/v1/batch/{batch_id}", delete_batch, methods=["DELETE"]),
        Route("/api/v1/batch/{batch_id}/results", get_results, methods=["GET"]),
        Route("/api/v1/schedules", post_schedule, methods=["POST"]),
        Route("/api/v1/schedules", list_schedules, methods=["GET"]),
        Route("/api/v1/schedules/{schedule_id}", get_schedule, methods=["GET"]),
        Route("/api/v1/schedules/{schedule_id}", patch_schedule, methods=["PATCH"]),
        Route("/api/v1/schedules/{schedule_id}", delete_schedule, methods=["DELETE"]),
    ]


def _model_routes() -> list[BaseRoute]:
    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", get_model, methods=["GET"]),
        Route("/v1" + MESSAGES, Messages(), methods=["POST"]),
        Route("/v1" + COUNT_TOKENS, Messages(COUNT_TOKENS), methods=["POST"]),
    ]


def webhook_routes() -> list[BaseRoute]:
    """Webhooks and the messages to them. `secret` and `deliveries` stand before what could be an id."""
    return [
        Route("/api/v1/webhooks", audited("webhook.register", register_webhook), methods=["POST"]),
        Route("/api/v1/webhooks", list_webhooks, methods=["GET"]),
        Route("/api/v1/webhooks/secret", show_secret, methods=["GET"]),
        Route("/api/v1/webhooks/deliveries", list_deliveries, methods=["GET"]),
        Route("/api/v1/webhooks/deliveries/replay", audited("delivery.replay", replay_failed), methods=["POST"]),
        Route("/api/v1/webhooks/deliveries/{delivery_id}", get_delivery, methods=["GET"]),
        Route("/api/v1/webhooks/deliveries/{delivery_id}/replay", audited("delivery.replay", replay_delivery), methods=["POST"]),
        Route("/api/v1/webhooks/{webhook_id}", get_webhook, methods=["GET"]),
        Route("/api/v1/webhooks/{webhook_id}", audited("webhook.change", change_webhook), methods=["PATCH"]),
        Route("/api/v1/webhooks/{webhook_id}", audited("webhook.delete", delete_webhook), methods=["DELETE"]),
        Route("/api/v1/webhooks/{webhook_id}/test", send_test, methods=["POST"]),
        Route("/admin/api/webhooks", list_webhooks, methods=["GET"]),
    ]


def config_routes() -> list[BaseRoute]:
    """The config centre."""
    agent = "/admin/api/agents/{agent_id}"
    return [
        Route("/admin/api/agents", configs.list_agents, methods=["GET"]),
        Route(agent, configs.get_agent, methods=["GET"]),
        Route(f"{agent}/config", audited("config.push", configs.put_config), methods=["PUT"]),
        Route(f"{agent}/versions", configs.list_versions, methods=["GET"]),
        Route(f"{agent}/versions/{{version}}", configs.get_version, methods=["GET"]),
        Route(f"{agent}/activate", audited("config.activate", configs.activate), methods=["POST"]),
        Route(f"{agent}/rollback", audited("config.rollback", configs.rollback), methods=["POST"]),
        Route(f"{agent}/diff", configs.diff, methods=["POST"]),
        Route(f"{agent}/comparison", configs.get_comparison, methods=["GET"]),
    ]


async def health(role: str, request: Request) -> Response:
    """Health of this process and of what it depends on."""
    heavy = heavy_of(request.scope)
    checks = {"database": heavy.stores.ping, "hotstore": heavy.hotstore.ping, "config": heavy.centre.check}
    return await pages.health(role, lambda: heavy.agents.config_hash, checks, heavy.stores.sessions.count)(request)


async def metrics(request: Request) -> Response:
    """The Prometheus page."""
    heavy = heavy_of(request.scope)
    heavy.metrics.heavy_inflight_ratio.set(heavy.turns.entrance.under_way / heavy.turns.entrance.limit.now)
    return await pages.metrics_page(heavy.metrics)(request)


def _ready(inflight: InFlight) -> pages.Handler:
    async def ready(request: Request) -> Response:
        heavy = heavy_of(request.scope)
        return await pages.readyz(inflight, {"database": heavy.stores.ping})(request)

    return ready
