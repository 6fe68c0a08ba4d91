"""POST /api/v1/turns/{id}/approval: a person approves or denies the calls that a turn waits with."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import parse_object
from common.errors import InvalidRequest, NotFound
from common.web.asgi import read_body
from heavy.agent.steps import ApprovalDecision
from heavy.routes.turns import asked, document, find

DECISIONS = {"approve": True, "deny": False}
MAX_BY, MAX_REASON, MAX_CALL_ID = 256, 2000, 256


async def decide_approval(request: Request) -> Response:
    """Stores the decision on one call, or on all open ones without `call_id`; 202 with the turn, which goes on once all are decided."""
    heavy, tenant, turn_id = asked(request.scope)
    call_id, decision = _read(parse_object(await read_body(request.scope, request.receive)))
    await heavy.turns.decide(await find(heavy, tenant, turn_id), call_id, decision)
    row = await heavy.stores.turns.get(tenant, turn_id)
    if row is None:
        raise NotFound("there is no such turn")
    return JSONResponse(document(row), 202)


def _read(doc: dict[str, Any]) -> tuple[str | None, ApprovalDecision]:
    decision = doc.get("decision")
    if not isinstance(decision, str) or decision not in DECISIONS:
        raise InvalidRequest("decision must be approve or deny", field="decision")
    call_id, reason = _text(doc, "call_id", MAX_CALL_ID), _text(doc, "reason", MAX_REASON)
    return call_id, ApprovalDecision(DECISIONS[decision], _text(doc, "by", MAX_BY) or "operator", reason)


def _text(doc: dict[str, Any], name: str, most: int) -> str | None:
    value = doc.get(name)
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= most):
        raise InvalidRequest(f"{name} must be a string of 1 to {most} characters", field=name)
    return value
