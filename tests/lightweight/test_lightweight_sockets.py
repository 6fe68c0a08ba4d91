"""A WebSocket of heavy through the rule tier: messages, subprotocol, closes, refusals, and a heavy that is not there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvicorn
from aiohttp import web

from common.workflow.load import load_text
from lightweight.app import create_app
from lightweight.settings import LightweightSettings
from tests.lightweight.asking import SECRET, business_api
from tests.support.services import free_port
from tests.support.waiting import wait_until

PATH = "/api/v1/session/s-1/ws"


class Heavy:
    """Tells what came, repeats what is said, and closes with 1003 on `bye`. `closed` are the codes with which sockets ended."""

    def __init__(self, status: int = 101) -> None:
        self.closed: list[int | None] = []
        self._status = status

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._status != 101:
            return web.Response(status=self._status)
        there = web.WebSocketResponse(protocols=("loadsplit",))
        await there.prepare(request)
        await there.send_json({"path": request.path_qs, "headers": {k.lower(): v for k, v in request.headers.items()}})
        async for message in there:
            if message.data == "bye":
                await there.close(code=1003, message=b"not understood")
            elif message.type is aiohttp.WSMsgType.BINARY:
                await there.send_bytes(message.data)
            else:
                await there.send_str(message.data)
        self.closed.append(there.close_code)
        return there


@asynccontextmanager
async def tier(heavy_url: str) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """The rule tier under a real server: its URL and a client."""
    environ = {"LOADSPLIT_TICKET_SECRET": SECRET, "LOADSPLIT_HEAVY_URL": heavy_url}
    app = create_app(LightweightSettings.load(environ), workflows={"shop": load_text('{"agent_id": "shop"}')})
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve([sock]))
        await wait_until(lambda: server.started, "the rule tier has started")
        try:
            async with aiohttp.ClientSession() as http:
                yield f"http://127.0.0.1:{sock.getsockname()[1]}", http
        finally:
            server.should_exit = True
            await running


async def test_messages_pass_both_ways() -> None:
    heavy = Heavy()
    async with business_api(heavy) as there, tier(there) as (url, http):
        given = {"X-Loadsplit-Ticket": "forged", "Authorization": "Bearer k", "Origin": url}
        async with http.ws_connect(f"{url}{PATH}?starting_after=3", protocols=("loadsplit", "bearer.k"), headers=given) as here:
            seen = await here.receive_json(timeout=5)
            assert seen["path"] == f"{PATH}?starting_after=3"
            assert seen["headers"]["authorization"] == "Bearer k"
            assert seen["headers"]["host"] == seen["headers"]["origin"].removeprefix("http://")
            assert "x-loadsplit-ticket" not in seen["headers"]
            assert "bearer.k" in seen["headers"]["sec-websocket-protocol"]
            assert here.protocol == "loadsplit"
            await here.send_str("ä")
            await here.send_bytes(b"\x00")
            assert await here.receive_str(timeout=5) == "ä"
            assert await here.receive_bytes(timeout=5) == b"\x00"
            await here.close(code=4001)
        await wait_until(lambda: heavy.closed == [4001], "heavy has seen the close")


async def test_heavys_close_arrives_with_its_reason() -> None:
    async with business_api(Heavy()) as there, tier(there) as (url, http), http.ws_connect(url + PATH) as here:
        await here.receive_json(timeout=5)
        await here.send_str("bye")
        closing = await here.receive(timeout=5)
        assert (closing.type, closing.data, closing.extra) == (aiohttp.WSMsgType.CLOSE, 1003, "not understood")


async def test_a_client_that_vanishes_is_told_to_heavy() -> None:
    heavy = Heavy()
    async with business_api(heavy) as there, tier(there) as (url, http):
        here = await http.ws_connect(url + PATH)
        await here.receive_json(timeout=5)
        await http.close()
        await wait_until(lambda: heavy.closed, "heavy has seen the end")


@pytest.mark.parametrize(("answers", "path", "status"), [(401, PATH, 401), (400, PATH, 400), (503, PATH, 503), (101, "/admin/ws", 403)])
async def test_refusals(answers: int, path: str, status: int) -> None:
    async with business_api(Heavy(answers)) as there, tier(there) as (url, http):
        with pytest.raises(aiohttp.WSServerHandshakeError) as found:
            await http.ws_connect(url + path)
        assert found.value.status == status


async def test_heavy_is_not_there() -> None:
    async with tier(f"http://127.0.0.1:{free_port()}") as (url, http):
        with pytest.raises(aiohttp.WSServerHandshakeError) as found:
            await http.ws_connect(url + PATH)
        assert (found.value.status, (found.value.headers or {})["Retry-After"]) == (503, "1")
