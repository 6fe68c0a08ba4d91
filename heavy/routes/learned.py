"""The admin endpoints of what an agent has learned: the routes, forgetting them, proposed rules, and /match, which explains a text."""

from __future__ import annotations

from collections.abc import Mapping
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
    heavy, tenant, agent = await _asked(request)
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
    heavy, tenant, agent = await _asked(request)
    message = request.query_params.get("message")
    return JSONResponse({"forgotten": await heavy.learner.forget(tenant, agent.workflow.agent_id, message)})


async def propose_rules(request: Request) -> Response:
    """Rules that could stand for what was learned, each with the messages of the log that it would catch rightly and wrongly."""
    heavy, tenant, agent = await _asked(request)
    found = await heavy.learner.proposals(tenant, agent.workflow.agent_id)
    return JSONResponse({"agent_id": agent.workflow.agent_id, "proposals": [asdict(p) for p in found]})


async def match(request: Request) -> Response:
    """How a text would be routed now, or by a stored `version`, as `loadsplit match` says it of a file, with what was learned. Nothing is
    called: {message, context?, version?}.

    A process that was started without the rule tier tells only the learned route, and neither `tier` nor `candidates`.
    """
    heavy, tenant, agent_id = _admin(request)
    text, context, version = _message(parse_object(await read_body(request.scope, request.receive, 2 * MAX_MESSAGE_BYTES)))
    if version is not None:
        agent = await heavy.centre.compiled(agent_id, version)
    else:
        agent = await _active(heavy, agent_id)
    route = await heavy.learner.route_for(tenant, agent, text)
    if agent.rules is not None:
        return JSONResponse({**agent.rules.explain(text, context, route), "config_hash": agent.workflow.config_hash})
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


async def _asked(request: Request) -> tuple[Heavy, str, CompiledWorkflow]:
    heavy, tenant, agent_id = _admin(request)
    return heavy, tenant, await _active(heavy, agent_id)


def _admin(request: Request) -> tuple[Heavy, str, str]:
    caller = caller_of(request.scope)
    caller.need("admin")
    return heavy_of(request.scope), caller.tenant, check_id(request.path_params["agent_id"], "agent_id")


async def _active(heavy: Heavy, agent_id: str) -> CompiledWorkflow:
    if not heavy.agents.serves(agent_id):
        raise NotFound("there is no such agent")
    return await heavy.agents.active(agent_id)


def _message(doc: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], int | None]:
    """Text, context and version of a request; the text may stand under `text`, too."""
    field = "text" if "text" in doc else "message"
    text, context, version = doc.get(field), doc.get("context") or {}, doc.get("version")
    if not isinstance(text, str) or not 0 < len(text.encode()) <= MAX_MESSAGE_BYTES:
        raise InvalidRequest(f"{field} must be a string of 1 to {MAX_MESSAGE_BYTES} bytes", field=field)
    if not isinstance(context, dict):
        raise InvalidRequest("context must be an object", field="context")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 10**9):
        raise InvalidRequest("version must be the number of a version", field="version")
    return text, context, version
