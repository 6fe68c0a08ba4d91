"""HTTP to an MCP server: the host's name stays in the request, addresses are policed, documents are bounded."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest
from aiohttp import web

from common.endpoints.egress import EgressPolicy
from heavy.agent import mcp_http
from heavy.agent.mcp_http import open_client

LOCAL = EgressPolicy(trusted_hosts=frozenset({"127.0.0.1", "localhost", "::1"}))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/away":
            return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})
        if request.path == "/big":
            kind = request.query["as"]
            return web.Response(body=b"x" * 2000, content_type=kind)
        if request.path == "/packed":
            return web.Response(body=gzip.compress(b'"' + b"a" * 5_000_000 + b'"'), headers={"Content-Encoding": "gzip"})
        body = await request.text()
        return web.json_response({"host": request.host, "token": request.headers.get("Authorization"), "body": body})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_a_request_keeps_its_host_and_headers(port: int) -> None:
    async with open_client(LOCAL, {"Authorization": "Bearer t"}) as client:
        for host in ("127.0.0.1", "localhost"):  # the latter often has an address that nobody listens on, which is passed over
            reply = await client.post(f"http://{host}:{port}/mcp", json={"a": 1})
            assert reply.json() == {"host": f"{host}:{port}", "token": "Bearer t", "body": '{"a":1}'}
        assert (await client.get(f"http://127.0.0.1:{port}/away")).status_code == 307


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "no-such-host.invalid"])
async def test_what_the_policy_refuses_is_not_connected_to(port: int, host: str) -> None:
    async with open_client(EgressPolicy(), {}) as client:
        with pytest.raises(httpx2.ConnectError, match=r"permits no address|cannot be found"):
            await client.get(f"http://{host}:{port}/")


async def test_no_server_at_all() -> None:
    async with open_client(LOCAL, {}) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://127.0.0.1:1/")


async def test_a_document_is_bounded_and_a_stream_is_not(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_http, "MAX_ANSWER_BYTES", 1000)
    async with open_client(LOCAL, {}) as client:
        with pytest.raises(httpx2.StreamError, match="1000 bytes"):
            await client.get(f"http://127.0.0.1:{port}/big?as=application/json")
        assert len((await client.get(f"http://127.0.0.1:{port}/big?as=text/event-stream")).content) == 2000


async def test_an_answer_that_would_grow_is_refused(port: int) -> None:
    async with open_client(LOCAL, {}) as client:
        with pytest.raises(httpx2.DecodingError, match="compressed"):
            await client.get(f"http://127.0.0.1:{port}/packed")
