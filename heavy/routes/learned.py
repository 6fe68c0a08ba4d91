"""The admin endpoints of what an agent has learned: the routes, forgetting them, proposed rules, and /match, which explains a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.learned import decode
from common.contracts.query import MAX_MESSAGE_BYTES, check_id, parse_object
from common.errors import InvalidRequest, NotFound
from common.web.asgi import read_body
from heavy.actions.compiled import CompiledWorkflow
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.turns.learned_routes import LearnedRow


async def list_learned(request: Request) -> Response:
    """The agent's routes, active ones first, by hits; without those that have expired."""
    heavy, tenant, agent = _asked(request)
    rows = await heavy.learner.routes(tenant, agent.workflow.agent_id)
    settings = agent.workflow.learned_routes
    return JSONResponse(
        {
            "agent_id": agent.workflow.agent_id,
            "config_hash": agent.workflow.config_hash,
            "enabled": settings.enabled,
            "repeat": settings.repeat,
            "ttl_seconds": settings.ttl_seconds,
            "routes": [document(row) for row in rows],
        }
    )


async def forget_learned(request: Request) -> Response:
    """Forgets all of the agent's routes, or with ?message= those of one message."""
    heavy, tenant, agent = _asked(request)
    message = request.query_params.get("message")
    return JSONResponse({"forgotten": await heavy.learner.forget(tenant, agent.workflow.agent_id, message)})


async def propose_rules(request: Request) -> Response:
    """Rules that could stand for what was learned, each with the messages of the log that it would catch rightly and wrongly."""
    heavy, tenant, agent = _asked(request)
    found = await heavy.learner.proposals(tenant, agent.workflow.agent_id)
    return JSONResponse({"agent_id": agent.workflow.agent_id, "proposals": [asdict(p) for p in found]})


async def match(request: Request) -> Response:
    """How a text would be routed now, as `loadsplit match` says it of a file, with what was learned. Nothing is called.

    A heavy process of its own holds no rules: there only the learned route is told, and neither `tier` nor `candidates`.
    """
    heavy, tenant, agent = _asked(request)
    text = _text(await read_body(request.scope, request.receive, 2 * MAX_MESSAGE_BYTES))
    route = await heavy.learner.route_for(tenant, agent, text)
    if heavy.explain is not None:
        return JSONResponse(heavy.explain(agent.workflow.agent_id, text, route))
    if route is None:
        return JSONResponse({"action_type": "message", "action_target": None, "matched_by": "none"})
    told = {"action_type": route.kind, "action_target": route.target, "matched_by": "learned", "parameters": route.parameters(text)}
    return JSONResponse(told)


def document(row: LearnedRow) -> dict[str, Any]:
    """A route as an administrator sees it. Of a candidate or a blocked one the message is not kept."""
    route = decode(row.route)
    return {
        "message": row.message or None,
        "digest": row.key.digest,
        "matched_by": "learned",
        "state": row.state,
        "action_type": route.kind if route else None,
        "action_target": route.target if route else None,
        "parameters": sorted({*route.spans, *route.fixed}) if route else [],
        "seen": row.seen,
        "hits": row.hits,
        "config_hash": row.key.config_hash,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
    }


def _asked(request: Request) -> tuple[Heavy, str, CompiledWorkflow]:
    caller = caller_of(request.scope)
    caller.need("admin")
    heavy, agent_id = heavy_of(request.scope), check_id(request.path_params["agent_id"], "agent_id")
    if not heavy.agents.serves(agent_id):
        raise NotFound("there is no such agent")
    return heavy, caller.tenant, heavy.agents.choose(agent_id)


def _text(body: bytes) -> str:
    text = parse_object(body).get("text")
    if not isinstance(text, str) or not 0 < len(text.encode()) <= MAX_MESSAGE_BYTES:
        raise InvalidRequest(f"text must be a string of 1 to {MAX_MESSAGE_BYTES} bytes", field="text")
    return text
