"""A server for clients alone (the page, the terminal chat, Locust users): it speaks the public protocol and does what the message says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from common.contracts.events import RETRY, Event, frame, payload
from common.web.security_headers import POLICY
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

PAGE = Path(__file__).parents[2] / "heavy" / "page"
NO_USAGE = {"llm_calls": 0, "input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
LLM_USAGE = {"llm_calls": 3, "input_tokens": 812, "cached_tokens": 256, "output_tokens": 64, "cost_usd": 0.000321}
RULE = {"tier": "lightweight", "action_type": "flow", "action_target": "opening_hours", "matched_by": "rule", "pattern": "opening hours"}
SKILL = {"tier": "heavy", "action_type": "skill", "action_target": "returns_desk", "matched_by": "llm", "pattern": None}
ASKED = {
    "turn_id": "t_1",
    "calls": [{"call_id": "c1", "name": "cancel_order", "arguments": {"order_id": "A1007"}}],
    "message": "May I call cancel_order? (yes / no)",
}
PROBLEM = {
    "title": "Too many requests",
    "status": 429,
    "detail": "Slow down, please.",
    "code": "rate_limited",
    "request_id": "r-7",
    "retryable": True,
}


class Script:
    """What the stub was asked, and the gate at which a held stream waits."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.resumed_after: list[str | None] = []
        self.held = asyncio.Event()
        self.refusals = 0
        self.decisions: list[dict[str, Any]] = []
        self.decided = asyncio.Event()
        self.happened: list[tuple[str, dict[str, Any]]] = []
        self.watched_after: list[str | None] = []
        self.news = asyncio.Condition()
        self.over = False
        self.without_events = False
        """An older server: it has no events of sessions."""


def events_of(body: dict[str, Any]) -> list[Event]:
    """The whole stream that answers a message."""
    rule = not re.search("return|fail|hold|recommend|cancel|退货", body["message"])
    route, usage = (RULE, NO_USAGE) if rule else (SKILL, LLM_USAGE)
    words = ["We ", "open ", "at ", "nine."] if rule else ["Your return ", "R5001 ", "is open. ", "<b>not markup</b>"]
    tools = [
        Event("tool_call", {"call_id": "c1", "name": "get_order", "arguments": {"order_id": "A1002"}}),
        Event("tool_result", {"call_id": "c1", "name": "get_order", "ok": True, "result": {"status": "delivered"}, "duration_ms": 12.3}),
        Event("tool_call", {"call_id": "c2", "name": "create_return", "arguments": {"order_id": "A1002"}}),
        Event(
            "tool_result", {"call_id": "c2", "name": "create_return", "ok": False, "result": {"error": "status 409"}, "duration_ms": 2100}
        ),
    ]
    reply = {
        "session_id": body["session_id"], "message": "".join(words), "status": "success", "turn_id": "t_1",
        "route": route, "usage": usage, "config_hash": "abcdef0123456789",
    }  # fmt: skip
    start = Event("start", {"turn_id": "t_1", "session_id": body["session_id"], "config_hash": "abcdef0123456789"})
    if "cancel" in body["message"]:
        tools = [Event("awaiting_approval", ASKED), *tools[:2]]
    return [start, Event("route", route), *([] if rule else tools), *(Event("text", {"delta": w}) for w in words), Event("complete", reply)]


async def _frames(script: Script, body: dict[str, Any], events: list[Event]) -> AsyncIterator[bytes]:
    yield RETRY
    for number, event in enumerate(events, 1):
        if "fail late" in body["message"] and event.type == "complete":
            event = Event("error", {**PROBLEM, "title": "LLM error", "code": "llm_error", "status": 502, "detail": "The model went away."})
        if "hold" in body["message"] and number == len(events) - 1:
            await script.held.wait()
            yield frame(number, "cancelled", payload(Event("cancelled", {"reason": "asked"})))
            return
        if "drop" in body["message"] and number == len(events) - 2:
            return
        yield frame(number, event.type, payload(event))
        if event.type == "awaiting_approval":
            await script.decided.wait()


async def _events(request: Request) -> Response:
    script: Script = request.app.state.script
    if script.without_events:
        return JSONResponse({"title": "Not found", "status": 404}, 404, media_type="application/problem+json")
    after = request.headers.get("last-event-id")
    script.watched_after.append(after)
    return StreamingResponse(_happening(script, request.path_params["session_id"], int(after or 0)), media_type="text/event-stream")


async def _happening(script: Script, session_id: str, number: int) -> AsyncIterator[bytes]:
    yield RETRY
    while True:
        async with script.news:
            while len(script.happened) <= number and not script.over:
                await script.news.wait()
        if script.over:
            return
        kind, data = script.happened[number]
        number += 1
        yield frame(number, kind, payload(Event(kind, {"session_id": session_id, **data})))


async def _approval(request: Request) -> Response:
    script: Script = request.app.state.script
    body = await request.json()
    if "too late" in script.bodies[-1]["message"]:
        return JSONResponse({**PROBLEM, "status": 409, "detail": "Somebody else has denied it."}, 409)
    script.decisions.append({"turn_id": request.path_params["turn_id"], **body})
    script.decided.set()
    return JSONResponse({"turn_id": request.path_params["turn_id"], "state": "waiting"}, 202)


async def _turn(request: Request) -> Response:
    return JSONResponse({"turn_id": "t_9", "state": "awaiting_approval", "approval": {"calls": ASKED["calls"], "decisions": {}}})


async def _query(request: Request) -> Response:
    script: Script = request.app.state.script
    body = await request.json()
    script.bodies.append(body)
    if "refuse" in body["message"]:
        script.refusals += 1
        return JSONResponse(PROBLEM, 429, media_type="application/problem+json")
    return StreamingResponse(_frames(script, body, events_of(body)), media_type="text/event-stream")


async def _whole(request: Request) -> Response:
    body = await request.json()
    return JSONResponse(events_of(body)[-1].data)


async def _resume(request: Request) -> Response:
    script: Script = request.app.state.script
    after = request.headers.get("last-event-id")
    script.resumed_after.append(after)
    events = events_of(script.bodies[-1])
    rest = [frame(n, e.type, payload(e)) for n, e in enumerate(events, 1) if n > int(after or 0)]
    return Response(b"".join(rest), media_type="text/event-stream")


async def _cancel(request: Request) -> Response:
    request.app.state.script.held.set()
    return JSONResponse({"status": "cancelling"}, 202)


async def _session(request: Request) -> Response:
    said = [b for b in request.app.state.script.bodies if b["session_id"] == request.path_params["session_id"]]
    pairs = [({"role": "user", "content": b["message"]}, {"role": "assistant", "content": events_of(b)[-1].data["message"]}) for b in said]
    waits = ["t_9"] if any("remember the question" in b["message"] for b in said) else []
    return JSONResponse(
        {
            "messages": [message for pair in pairs for message in pair],
            "awaiting_approval": waits,
            "last_event_id": len(request.app.state.script.happened),
        }
    )


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "healthy", "config_hash": "abcdef0123456789", "sessions_count": 0, "tier": "heavy", "checks": {}})


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY})


def create_app() -> Starlette:
    """The stub's application."""
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/assets/{name}", _page),
            Route("/api/v1/health", _health),
            Route("/api/v1/query", _whole, methods=["POST"]),
            Route("/api/v1/query/stream", _query, methods=["POST"]),
            Route("/api/v1/session/{session_id}", _session),
            Route("/api/v1/session/{session_id}/events", _events),
            Route("/api/v1/turns/{turn_id}", _turn),
            Route("/api/v1/turns/{turn_id}/approval", _approval, methods=["POST"]),
            Route("/api/v1/turns/{turn_id}/stream", _resume),
            Route("/api/v1/turns/{turn_id}/cancel", _cancel, methods=["POST"]),
        ]
    )
    app.state.script = Script()
    return app


class StubServer:
    """The stub on a free port, in a thread."""

    def __init__(self) -> None:
        self.app = create_app()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop: asyncio.AbstractEventLoop

    @property
    def script(self) -> Script:
        """What was asked so far."""
        script: Script = self.app.state.script
        return script

    def happen(self, kind: str, **data: Any) -> None:
        """Something reaches every session outside a query."""
        self.script.happened.append((kind, data))
        self._wake()

    def _wake(self) -> None:
        async def wake() -> None:
            if self.script.over:
                self.script.decided.set()
            async with self.script.news:
                self.script.news.notify_all()

        asyncio.run_coroutine_threadsafe(wake(), self._loop).result(5)

    @contextlib.contextmanager
    def serving(self) -> Iterator[StubServer]:
        """Serves for the length of the block."""
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        thread.start()
        wait_until_sync(lambda: server.started, "the stub serves")
        yield self
        self.script.over = True
        self._wake()
        server.should_exit = True
        thread.join(10)

    def _run(self, server: uvicorn.Server) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await server.serve()

        asyncio.run(serve())
