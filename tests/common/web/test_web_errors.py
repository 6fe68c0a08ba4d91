"""Errors as problems, and the edge around the routes: one handler for all, nothing internal in what a client sees."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from common.errors import DependencyUnavailable, InvalidRequest, NotFound, Overloaded, RateLimited, SessionBusy, Unauthorized
from common.telemetry.metrics import Metrics
from common.web.asgi import ClientDisconnected
from common.web.errors import exception_handlers, problem_response
from common.web.middleware import Edge, InFlight
from tests.common.web.calls import call
from tests.support.waiting import wait_until

ERRORS = {
    "invalid": InvalidRequest("message is required", field="message"),
    "limited": RateLimited("slow down", retry_after=2.2),
    "busy": SessionBusy("a turn runs", turn_id="t_1"),
    "odd": ZeroDivisionError("secret of the stack"),
}


async def raising(request: Request) -> Response:
    raise ERRORS[request.path_params["which"]]


async def begun(request: Request) -> Response:
    async def chunks() -> object:
        yield b"first"
        raise ZeroDivisionError("late")

    return StreamingResponse(chunks())  # type: ignore[arg-type]


async def left(request: Request) -> Response:
    raise ClientDisconnected


async def fine(request: Request) -> Response:
    return PlainTextResponse("fine", headers={"X-Loadsplit-Config": "own"})


def app(inflight: InFlight | None = None, metrics: Metrics | None = None) -> Starlette:
    return Starlette(
        routes=[Route("/raise/{which}", raising), Route("/begun", begun), Route("/left", left), Route("/fine", fine)],
        middleware=[Middleware(Edge, tier="heavy", config_hash=lambda: "c0ffee", inflight=inflight, metrics=metrics)],
        exception_handlers=exception_handlers(),
    )


async def test_errors_of_the_tree() -> None:
    sent = await call(app(), "GET", "/raise/invalid", headers={"X-Request-Id": "r-1"})
    assert sent.status == 400
    assert sent.headers["content-type"] == "application/problem+json"
    assert sent.headers["x-loadsplit-tier"] == "heavy"
    assert sent.headers["x-loadsplit-config"] == "c0ffee"
    assert sent.headers["x-request-id"] == "r-1"
    assert sent.headers["server-timing"].startswith("total;dur=")
    assert sent.json == {
        "type": "https://loadsplit.dev/errors/invalid_request",
        "title": "Invalid request",
        "status": 400,
        "detail": "message is required",
        "code": "invalid_request",
        "request_id": "r-1",
        "retryable": False,
        "field": "message",
    }
    assert (await call(app(), "GET", "/raise/limited")).headers["retry-after"] == "3"
    assert (await call(app(), "GET", "/raise/busy")).json["turn_id"] == "t_1"


async def test_errors_of_the_framework() -> None:
    for method, path, status, code in (("GET", "/nope", 404, "not_found"), ("DELETE", "/fine", 405, "invalid_request")):
        sent = await call(app(), method, path)
        assert (sent.status, sent.json["code"]) == (status, code)
        assert sent.headers["content-type"] == "application/problem+json"
    assert "GET" in sent.headers["allow"]


async def test_unexpected_errors_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        sent = await call(app(), "GET", "/raise/odd", headers={"X-Request-Id": "r-9"})
    assert (sent.status, sent.json["code"]) == (500, "internal")
    assert b"secret" not in sent.body
    assert "ZeroDivisionError" in caplog.text
    assert [getattr(r, "request_id", None) for r in caplog.records] == ["r-9"]


async def test_an_error_after_the_first_byte_breaks_off() -> None:
    with pytest.raises(ZeroDivisionError):
        await call(app(), "GET", "/begun")


async def test_a_client_that_left_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    sent = await call(app(metrics=metrics), "GET", "/left")
    assert sent.messages == []
    assert caplog.records == []
    assert b'status="499"' in metrics.render()


async def test_headers_of_the_route_stay() -> None:
    assert (await call(app(), "GET", "/fine")).headers["x-loadsplit-config"] == "own"


async def test_in_flight_requests_are_counted_and_bounded() -> None:
    inflight, go = InFlight(limit=1), asyncio.Event()

    async def slow(scope: object, receive: object, send: object) -> None:
        await go.wait()

    metrics = Metrics()
    edge = Edge(slow, tier="heavy", config_hash=lambda: "c", inflight=inflight, metrics=metrics)
    first = asyncio.ensure_future(call(edge, "GET", "/"))
    await wait_until(lambda: inflight.count == 1, "one in flight")
    second = await call(edge, "GET", "/")
    assert (second.status, second.json["code"], second.headers["retry-after"]) == (503, "overloaded", "1")
    assert second.headers["x-loadsplit-tier"] == "heavy"
    go.set()
    await call(edge, "GET", "/livez")  # who watches the process is let in all the same
    await first
    assert inflight.count == 0
    assert b'loadsplit_requests_inflight{tier="heavy"} 0.0' in metrics.render()


def test_retry_after_and_the_scheme() -> None:
    def headers(error: Exception) -> dict[bytes, bytes]:
        return dict(problem_response(error, "r")[1])  # type: ignore[arg-type]

    assert headers(Overloaded())[b"retry-after"] == b"1"
    assert headers(DependencyUnavailable(retry_after=0.2))[b"retry-after"] == b"1"
    assert headers(Unauthorized())[b"www-authenticate"] == b"Bearer"
    assert b"retry-after" not in headers(NotFound())
    status, _, body = problem_response(InvalidRequest("x", odd={1: object}), "r")
    assert (status, orjson.loads(body)["code"]) == (400, "invalid_request")
