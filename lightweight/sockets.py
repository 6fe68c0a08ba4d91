"""Relays a WebSocket to heavy and back, where no Nginx stands in front. It knows nothing of what is said on one."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect
from yarl import URL

from common.errors import DependencyUnavailable, LoadsplitError
from common.web.asgi import request_id
from common.web.errors import as_loadsplit_error, problem_response

MESSAGE_BYTES = 1_048_576  # heavy's largest event is far below
ALIVE_SECONDS = 20.0
CONNECT_SECONDS = 3.0
# RFC 6455, section 7.4: what a peer may say; 1005 and 1006 only mean that nobody said anything.
NORMAL, GOING_AWAY, UNSAID = 1000, 1001, (None, 1005, 1006)


async def relay(websocket: WebSocket, session: aiohttp.ClientSession, url: URL, headers: list[tuple[str, str]]) -> None:
    """Opens the socket at heavy, then here with the subprotocol that heavy chose, and carries messages until one side closes. What heavy
    refuses is refused here with the same status."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            upstream = await session.ws_connect(
                url, headers=headers, protocols=websocket.scope.get("subprotocols", ()), max_msg_size=MESSAGE_BYTES, heartbeat=ALIVE_SECONDS
            )
    except aiohttp.WSServerHandshakeError as e:
        rid = request_id(websocket.scope)
        refusal = HTTPException(e.status, "the LLM tier refused the socket")
        await _refuse(websocket, as_loadsplit_error(refusal, rid) if e.status < 500 else _away(), rid)
        return
    except (aiohttp.ClientError, TimeoutError):
        await _refuse(websocket, _away(), request_id(websocket.scope))
        return
    try:
        await websocket.accept(upstream.protocol)
        ways = [asyncio.create_task(_down(upstream, websocket)), asyncio.create_task(_up(websocket, upstream))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
    finally:
        await upstream.close()


async def _down(upstream: aiohttp.ClientWebSocketResponse, websocket: WebSocket) -> None:
    """From heavy to the client; heavy's close with its code and reason too."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has gone
        while True:
            message = await upstream.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await websocket.send_text(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
            else:
                code = upstream.close_code
                await websocket.close(GOING_AWAY if code is None or code in UNSAID else code, str(message.extra or ""))
                return


async def _up(websocket: WebSocket, upstream: aiohttp.ClientWebSocketResponse) -> None:
    """From the client to heavy, until the client closes."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):  # heavy has gone: the other way says so
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code")
                await upstream.close(code=NORMAL if code in UNSAID else code)
                return
            if (text := message.get("text")) is not None:
                await upstream.send_str(text)
            else:
                await upstream.send_bytes(message["bytes"])


def _away() -> DependencyUnavailable:
    return DependencyUnavailable("the LLM tier can't be reached", retry_after=1)


async def _refuse(websocket: WebSocket, error: LoadsplitError, rid: str) -> None:
    status, headers, body = problem_response(error, rid)
    await websocket.send_denial_response(Response(body, status, {k.decode(): v.decode() for k, v in headers}))
