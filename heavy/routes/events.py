"""What reaches a session outside a query, as it happens: GET /api/v1/session/{id}/events (SSE) and WS /api/v1/session/{id}/ws.

Both replay what came after an event and then follow; a session that does not exist yet may be watched, it begins with its first message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import orjson
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from common.contracts.events import Event, frame, payload
from common.contracts.query import check_id
from common.errors import Forbidden, LoadsplitError
from common.web.asgi import Receive, Scope, Send, header, request_id
from common.web.errors import as_loadsplit_error, problem_response
from common.web.sse import CUT, STALL_SECONDS, SSEWriter
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.routes.stream import starting_after
from heavy.turns.stores import DatabaseUnavailable

SUBPROTOCOL = "loadsplit"
KEY_PREFIX = "bearer."
TAKEN = ("ack", "ping")
# RFC 6455, section 7.4.1, and the registry of close codes: not understood; not allowed; the server restarts; try again later.
UNSUPPORTED, POLICY, RESTART, TRY_LATER = 1003, 1008, 1012, 1013


class SessionEvents:
    """The stream of server-sent events, as a plain ASGI app."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one reader until it leaves or this process drains."""
        heavy, tenant, session_id = await _admit(scope, scope["headers"])
        after = starting_after(scope)
        async with heavy.quotas.stream(tenant, scope["headers"]):
            await SSEWriter(receive, send, cut=scope.get(CUT)).run(_frames(heavy, tenant, session_id, after))


async def session_socket(websocket: WebSocket) -> None:
    """The same as JSON messages {id, type, data}. Clients have nothing to say here but {"type": "ack"} or {"type": "ping"}."""
    scope = websocket.scope
    offered = [p.strip() for p in (header(scope, b"sec-websocket-protocol") or b"").decode("latin-1").split(",") if p.strip()]
    accepted = False
    try:
        headers = _with_key(scope, offered)
        heavy, tenant, session_id = await _admit(scope, headers)
        if heavy.keys.empty:
            _require_same_origin(scope)
        await heavy.quotas.request(heavy.keys.authenticate(headers))
        after = starting_after(scope)
        async with heavy.quotas.stream(tenant, headers) as stream:
            accepted = True
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else next((p for p in offered if p.startswith(KEY_PREFIX)), None))
            await _converse(websocket, heavy, tenant, session_id, after)
        if stream.revoked:
            await _close(websocket, POLICY, "the API key does not hold any more")
    except LoadsplitError as e:
        if accepted:
            raise
        rid = request_id(scope)
        status, problem_headers, body = problem_response(as_loadsplit_error(e, rid), rid)
        await websocket.send_denial_response(Response(body, status, {k.decode(): v.decode() for k, v in problem_headers}))


async def _converse(websocket: WebSocket, heavy: Heavy, tenant: str, session_id: str, after: int) -> None:
    """Tells and listens until one of both has ended, and closes where the client has not."""
    tasks = [asyncio.create_task(_tell(websocket, heavy, tenant, session_id, after)), asyncio.create_task(_listen(websocket))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        end = next(task.result() for task in tasks if task in done)
        if end is not None:
            await _close(websocket, *end)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client has closed it meanwhile
        await websocket.close(code, reason)


async def _tell(websocket: WebSocket, heavy: Heavy, tenant: str, session_id: str, after: int) -> tuple[int, str] | None:
    """Sends events until there are no more; the code and the reason to close with, None where the client has gone."""
    try:
        async with contextlib.aclosing(heavy.session_reader.follow(tenant, session_id, after)) as events:
            async for event in events:
                async with asyncio.timeout(STALL_SECONDS):  # a client that takes nothing for so long is gone for all that matters
                    await websocket.send_text(orjson.dumps({"id": event.id, "type": event.type, "data": event.data}).decode())
    except (WebSocketDisconnect, TimeoutError):
        return None
    except DatabaseUnavailable:
        return TRY_LATER, "the events cannot be read now"
    return RESTART, "this server restarts: connect again"


async def _listen(websocket: WebSocket) -> tuple[int, str] | None:
    """Reads what the client says until it leaves, or says what is not understood."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text")
        try:
            said = orjson.loads(text) if text is not None else None
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict) or said.get("type") not in TAKEN:
            return UNSUPPORTED, 'only {"type": "ack"} and {"type": "ping"} are understood here'


async def _frames(heavy: Heavy, tenant: str, session_id: str, after: int) -> AsyncIterator[bytes]:
    with contextlib.suppress(DatabaseUnavailable):  # the reader comes back after `retry` and is told then
        async with contextlib.aclosing(heavy.session_reader.follow(tenant, session_id, after)) as events:
            async for event in events:
                yield frame(event.id, event.type, payload(Event(event.type, event.data)))


async def _admit(scope: Scope, headers: list[tuple[bytes, bytes]]) -> tuple[Heavy, str, str]:
    """Who watches what. Raises Unauthorized, Forbidden, InvalidRequest, and DatabaseUnavailable while it is still possible to say so."""
    heavy = heavy_of(scope)
    caller = caller_of({**scope, "headers": headers})
    caller.need("query")
    session_id = check_id(scope["path_params"]["session_id"], "session_id")
    await heavy.stores.sessions.get(caller.tenant, session_id)
    return heavy, caller.tenant, session_id


def _with_key(scope: Scope, offered: list[str]) -> list[tuple[bytes, bytes]]:
    """The headers, with the API key that a browser can only send as a subprotocol `bearer.<key>`."""
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    key = next((p.removeprefix(KEY_PREFIX) for p in offered if p.startswith(KEY_PREFIX)), None)
    if key and header(scope, b"authorization") is None:
        headers.append((b"authorization", b"Bearer " + key.encode("latin-1")))
    return headers


def _require_same_origin(scope: Scope) -> None:
    """Without keys any page of the web could read a developer's sessions: browsers let every origin open a WebSocket, and say which."""
    origin, host = header(scope, b"origin"), header(scope, b"host")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.encode("latin-1") != host:
        raise Forbidden("a page of another origin may not watch sessions where no API keys are configured")
