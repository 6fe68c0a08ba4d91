"""Both ways to heavy: the redirect that Nginx follows, and the proxy with its streams, disconnects, retries and cleaned headers."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.contracts.ticket import verify
from common.errors import DependencyUnavailable
from common.workflow.load import load_text
from lightweight.app import create_app
from lightweight.handoff import Accel, Proxy
from tests.lightweight.asking import SECRET, Reply, business_api, call, lightweight_settings
from tests.lightweight.test_lightweight_query import SHOP
from tests.support.services import free_port
from tests.support.waiting import wait_until


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """What reached heavy, with headers that must not leave the proxy."""
    body = await request.read()
    seen = {
        "method": request.method,
        "path": request.raw_path,
        "headers": {k.lower(): v for k, v in request.headers.items()},
        "body": body.decode(),
    }
    return web.json_response(seen, headers={"X-Accel-Redirect": "/internal", "X-Loadsplit-Tier": "heavy", "X-Own": "kept"}, status=202)


def query_scope(method: str = "POST", path: str = "/api/v1/query") -> dict[str, Any]:
    """A request as uvicorn gives it."""
    headers = [(b"host", b"public"), (b"content-type", b"application/json"), (b"content-length", b"2"), (b"connection", b"keep-alive")]
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}


async def test_accel_answers_at_once_with_the_redirect() -> None:
    handoff = Accel()
    app = create_app(lightweight_settings(), workflows={"shop": load_text(json.dumps(SHOP))}, handoff=handoff)
    async with app.router.lifespan_context(app):
        reply = await call(app, "POST", "/api/v1/query", b'{"message":"tell me a story","session_id":"s-1"}')
        ticket = verify(reply.headers["x-loadsplit-ticket"], SECRET.encode())
        assert (reply.status, reply.body, reply.headers["x-accel-redirect"]) == (200, b"", "@heavy")
        assert (ticket.session_id, reply.headers["x-loadsplit-session"]) == ("s-1", "default/s-1")
        unknown = await call(app, "GET", "/api/v1/session/s-1")
        assert (unknown.status, unknown.json["code"]) == (404, "not_found")
    await handoff.aclose()


async def proxied(heavy: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
    """One request through an app in proxy mode."""
    app = create_app(lightweight_settings(heavy_url=heavy), workflows={"shop": load_text(json.dumps(SHOP))})
    async with app.router.lifespan_context(app):
        return await call(stays(app), method, path, body, headers)


def stays(app: Any) -> Any:
    """The app, called by a client that stays until it is answered: after the body its `receive` waits."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        done = False

        async def patient() -> Any:
            nonlocal done
            if done:
                await asyncio.Event().wait()
            message = await receive()
            done = not message.get("more_body")
            return message

        await app(scope, patient, send)

    return called


FORGED = {"X-Loadsplit-Ticket": "forged", "X-Loadsplit-Session": "forged", "X-Accel-Redirect": "/x", "X-Accel-Buffering": "yes"}


async def test_a_query_is_proxied_with_its_ticket() -> None:
    body = b'{"message":"tell me a story","session_id":"s-1"}'
    async with business_api(echo) as heavy:
        reply = await proxied(heavy, "POST", "/api/v1/query", body, {**FORGED, "X-Mine": "1", "Authorization": "Bearer k"})
        seen = reply.json
        assert reply.status == 202
        assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/api/v1/query", body.decode())
        assert verify(seen["headers"]["x-loadsplit-ticket"], SECRET.encode()).session_id == "s-1"
        assert seen["headers"]["x-loadsplit-session"] == "default/s-1"
        assert seen["headers"]["x-mine"] == "1"
        assert not any(name.startswith("x-accel") for name in seen["headers"])
        assert seen["headers"]["x-request-id"]
        assert reply.headers["x-loadsplit-tier"] == "heavy"
        assert reply.headers["x-own"] == "kept"
        assert "x-accel-redirect" not in reply.headers


@pytest.mark.parametrize("path", ["/api/v1/turns/t_1", "/api/v1/session/s-1", "/api/v1/tasks", "/v1/models", "/", "/docs"])
async def test_other_paths_of_the_api_are_forwarded_without_internal_headers(path: str) -> None:
    async with business_api(echo) as heavy:
        reply = await proxied(heavy, "GET", path, None, FORGED)
        assert reply.json["path"] == path
        assert not {"x-loadsplit-ticket", "x-loadsplit-session", "x-accel-redirect"} & set(reply.json["headers"])
        assert reply.headers["x-request-id"]


async def test_bodies_are_forwarded() -> None:
    async with business_api(echo) as heavy:
        length = {"content-length": "12"}
        assert (await proxied(heavy, "POST", "/api/v1/query/async", b'{"a":"long"}', length)).json["body"] == '{"a":"long"}'
        chunked = await proxied(heavy, "POST", "/api/v1/batch", b'{"a":"long"}', {"transfer-encoding": "chunked"})
        assert chunked.json["body"] == '{"a":"long"}'


@pytest.mark.parametrize("path", ["/metrics2", "/admin/api/x", "/api/v2/x"])
async def test_what_heavy_does_not_offer_is_not_found(path: str) -> None:
    async with business_api(echo) as heavy:
        reply = await proxied(heavy, "GET", path)
        assert (reply.status, reply.json["code"], reply.headers["x-loadsplit-tier"]) == (404, "not_found", "lightweight")


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/query"), ("POST", "/api/v1/query/stream"), ("GET", "/api/v1/session/s")])
async def test_a_heavy_that_is_away_is_a_clear_problem(method: str, path: str) -> None:
    body = b'{"message":"a story","session_id":"s"}' if method == "POST" else None
    reply = await proxied(f"http://127.0.0.1:{free_port()}", method, path, body)
    assert (reply.status, reply.json["code"], reply.json["retryable"]) == (503, "dependency_unavailable", True)
    assert reply.headers["retry-after"] == "1"


async def test_a_stream_passes_piece_by_piece() -> None:
    first_read = asyncio.Event()

    async def two_pieces(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"id: 1\n\n")
        await first_read.wait()
        await response.write(b"id: 2\n\n")
        return response

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == b"id: 1\n\n":
            first_read.set()

    async with business_api(two_pieces) as heavy:
        proxy = Proxy(heavy)
        await proxy(query_scope(), asyncio.Event().wait, send, b"{}", "t", "k")
        await proxy.aclose()
    assert [m["body"] for m in sent[1:]] == [b"id: 1\n\n", b"id: 2\n\n", b""]


async def test_a_client_that_goes_closes_upstream() -> None:
    running: list[str] = []

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        running.append("x")
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"tick\n")
                await asyncio.sleep(0.005)
        except (ConnectionError, aiohttp.ClientError):
            return response
        finally:
            running.clear()

    begun = asyncio.Event()

    async def send(message: Any) -> None:
        if message.get("body"):
            begun.set()

    async def receive() -> Any:
        await begun.wait()
        return {"type": "http.disconnect"}

    async with business_api(endless) as heavy:
        proxy = Proxy(heavy)
        await proxy(query_scope(), receive, send, b"{}", "t", "k")
        await wait_until(lambda: not running, "heavy notices that the client has gone")
        await proxy.aclose()


async def test_a_reply_that_breaks_off_is_left_unfinished() -> None:
    async def breaks(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with business_api(breaks) as heavy:
        proxy = Proxy(heavy)
        await proxy(query_scope(), asyncio.Event().wait, send, b"{}", "t", "k")
        await proxy.aclose()
    assert all(m.get("more_body", True) for m in sent[1:])  # no end was sent: the server closes the connection


async def test_a_kept_connection_that_was_closed_is_tried_again() -> None:
    """Heavy restarts between two queries: the second finds a dead connection in the pool and is sent once more."""
    served: list[str] = []

    async def once(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        served.append(request.path)
        if len(served) == 2:
            assert request.transport is not None
            request.transport.abort()  # the connection dies before a byte of the reply
        return web.Response(text="ok")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with business_api(once) as heavy:
        proxy = Proxy(heavy)
        for _ in range(2):
            await proxy(query_scope(), asyncio.Event().wait, send, b"{}", "t", "k")
        await proxy.aclose()
    assert [m["status"] for m in sent if m["type"] == "http.response.start"] == [200, 200]
    assert len(served) == 3


async def test_ping_tells_whether_heavy_lives() -> None:
    async with business_api(echo) as heavy:
        sick = Proxy(heavy)  # answers 202, which is not what /livez says
        with pytest.raises(DependencyUnavailable):
            await sick.ping()
        await sick.aclose()
    gone = Proxy(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DependencyUnavailable):
        await gone.ping()
    await gone.aclose()


async def refused_by_nobody(workflow: dict[str, Any], path: str) -> dict[str, Any]:
    """The problem that a caller gets when heavy can't be reached."""
    app = create_app(lightweight_settings(heavy_url=f"http://127.0.0.1:{free_port()}"), workflows={"shop": load_text(json.dumps(workflow))})
    async with app.router.lifespan_context(app):
        reply = await call(stays(app), "POST", path, b'{"message":"tell me a story","session_id":"s-1"}')
    assert (reply.status, reply.headers["content-type"]) == (503, "application/problem+json")
    return reply.json


@pytest.mark.parametrize("path", ["/api/v1/query", "/api/v1/query/stream"])
async def test_the_busy_message_is_there_for_a_front_end(path: str) -> None:
    problem = await refused_by_nobody({**SHOP, "busy_message": "One moment, please."}, path)
    assert (problem["code"], problem["message"]) == ("dependency_unavailable", "One moment, please.")
    assert "message" not in await refused_by_nobody(SHOP, path)
