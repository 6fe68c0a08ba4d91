"""The API document knows every route of the heavy tier, and what the routes of a session's life answer has its form."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import orjson
from starlette.routing import Route, WebSocketRoute

from common.web.middleware import InFlight
from common.web.openapi import document_bytes
from heavy.routes.table import query_routes, resource_routes
from tests.support.in_process import InProcess

# Pages and the document itself are no part of the API.
PAGES = {"/", "/assets/{name}", "/openapi.json", "/docs"}
DOCUMENT = orjson.loads(document_bytes())


def checked(name: str, value: Any) -> None:
    """Fails when the value is not of the named schema."""
    jsonschema_rs.validate({**DOCUMENT, "$ref": f"#/components/schemas/{name}"}, value)


def test_every_route_is_documented() -> None:
    documented = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    served: set[tuple[str, str]] = set()
    for route in (*query_routes(), *resource_routes(InFlight())):
        if isinstance(route, WebSocketRoute):
            served.add((route.path, "GET"))
        elif isinstance(route, Route) and route.path not in PAGES:
            served |= {(route.path.replace(":path", ""), method) for method in route.methods or () if method != "HEAD"}
    assert served == documented


async def test_answers_have_the_documented_form(shop: InProcess) -> None:
    reply = await shop.ask("a human")
    checked("Reply", reply)
    for action in ({"action": "accept", "by": "ann"}, {"action": "message", "text": "Hello."}, {"action": "release", "text": "Done."}):
        checked("HandoffAction", action)
        status, session = await shop.call("POST", "/api/v1/session/s1/handoff", action)
        assert status == 200
        checked("Session", session)
        checked("Handoff", session["handoff"])
    _, session = await shop.call("GET", "/api/v1/session/s1?include=messages")
    checked("Session", session)
    assert {m.get("author") for m in session["messages"]} == {None, "human"}
    _, turn = await shop.call("GET", f"/api/v1/turns/{reply['turn_id']}")
    checked("Turn", turn)
    async with shop.events() as events:
        for _ in range(4):
            _, kind, data = await events.next()
            checked("SessionEvent", {"type": kind, "data": data})
    _, problem = await shop.call("POST", "/api/v1/session/s1/handoff", {"action": "accept"})
    checked("Problem", problem)
