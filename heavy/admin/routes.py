"""Every page under /admin and the files that they load. They stand beside the API: a page asks its endpoints in this process."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.errors import NotFound
from heavy.admin import access, agents, costs, desk, found, jobs, login, overview, playground, rules
from heavy.admin.frame import ROOT, Page, page

STATIC = Path(__file__).resolve().parent / "static"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


def admin_routes() -> list[BaseRoute]:
    """The pages, with what they send."""
    return [
        Route(f"{ROOT}/assets/{{name}}", asset, methods=["GET"]),
        Route(f"{ROOT}/login", login.login, methods=["GET", "POST"]),
        _post("/logout", login.logout),
        _post("/theme", login.theme),
        _post("/tenant", login.choose_tenant),
        _get("", overview.overview),
        _get("/live", overview.live),
        _get("/sessions", found.sessions),
        _get("/sessions/{session_id}", found.session),
        _post("/sessions/{session_id}/erase", found.erase_session),
        _get("/turns", found.turns),
        _get("/turns/{turn_id}", found.turn),
        _post("/turns/{turn_id}/cancel", found.end_turn),
        _get("/desk", desk.desk),
        _get("/desk/live", desk.desk_live),
        _get("/desk/{session_id}", desk.desk_session),
        _post("/desk/{session_id}", desk.act),
        _get("/desk/{session_id}/live", desk.desk_session_live),
        _get("/playground", playground.playground),
        _post("/playground", playground.say),
        _post("/playground/explain", playground.explain),
        _get("/playground/turns/{turn_id}", playground.turn_live),
        _get("/agents", agents.agents),
        _get("/agents/edit", agents.new),
        _get("/agents/{agent_id}", agents.agent),
        _post("/agents/{agent_id}", agents.act),
        _get("/agents/{agent_id}/comparison", agents.comparison),
        _get("/agents/{agent_id}/edit", agents.editor),
        _post("/agents/{agent_id}/edit", agents.push),
        _post("/agents/{agent_id}/lint", agents.lint),
        _get("/agents/{agent_id}/versions/{version}", agents.version),
        _get("/rules", rules.rules),
        _post("/rules/forget", rules.forget),
        _get("/tasks", jobs.tasks),
        _get("/tasks/{task_id}", jobs.task),
        _post("/tasks/{task_id}", jobs.act_on_task),
        _get("/webhooks", jobs.webhooks),
        _post("/webhooks/replay", jobs.replay_all),
        _get("/webhooks/deliveries/{delivery_id}", jobs.delivery),
        _post("/webhooks/deliveries/{delivery_id}", jobs.replay),
        _post("/webhooks/{webhook_id}", jobs.act_on_webhook),
        _get("/costs", costs.costs),
        _get("/keys", access.keys),
        _post("/keys", access.create),
        _post("/keys/{key_id}/revoke", access.revoke),
        _post("/tenants", access.limits),
        _get("/audit", access.audit),
    ]


async def asset(request: Request) -> Response:
    """A file that pages load. Nothing of it is secret: the login loads it too."""
    path = STATIC / request.path_params["name"]
    if path.parent != STATIC or path.suffix not in TYPES or not path.is_file():
        raise NotFound("there is nothing at this path")
    return Response(path.read_bytes(), headers={"content-type": TYPES[path.suffix], "cache-control": "no-cache"})


def _get(path: str, show: Page) -> Route:
    return Route(ROOT + path, page(show), methods=["GET"])


def _post(path: str, act: Page) -> Route:
    return Route(ROOT + path, page(act), methods=["POST"])
