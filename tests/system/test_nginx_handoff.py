"""The hand-off through a real Nginx: method, body, ticket and hash survive; what clients and upstreams forge does not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from tests.support.fake_tiers import StartFront, hand_off
from tests.support.waiting import wait_until

FORGED = {
    "X-Loadsplit-Ticket": "v1.forged",
    "X-Loadsplit-Session": "evil/s",
    "X-Accel-Redirect": "/metrics",
    "X-Accel-Buffering": "yes",
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "1",
    "X-Real-IP": "6.6.6.6",
    "Forwarded": "for=6.6.6.6",
}


async def test_a_hand_off_keeps_method_body_and_caller_headers(nginx: StartFront) -> None:
    front = await nginx()
    front.lightweight[0].handle = hand_off
    status, seen, headers = await front.query(
        "s-1", headers={"Authorization": "Bearer k", "Idempotency-Key": "i-1", "X-Loadsplit-Timeout": "9"}
    )
    assert (status, seen["method"], seen["path"]) == (200, "POST", "/api/v1/query")
    assert seen["body"] == '{"message": "Wo ist es? \\u00fc", "session_id": "s-1"}'
    sent = seen["headers"]
    assert sent["authorization"] == "Bearer k"
    assert sent["idempotency-key"] == "i-1"
    assert sent["x-loadsplit-timeout"] == "9"
    assert sent["x-loadsplit-ticket"] == "v1.real.ticket"
    assert sent["x-loadsplit-session"] == "acme/s-1"
    assert sent["content-type"].startswith("application/json")
    assert headers["x-loadsplit-tier"] == "heavy"
    assert headers["x-loadsplit-config"] == "abc"
    assert {"x-loadsplit-ticket", "x-loadsplit-session", "x-accel-redirect"} & headers.keys() == set()


async def test_a_large_body_is_handed_off_whole(nginx: StartFront) -> None:
    front = await nginx()
    front.lightweight[0].handle = hand_off
    message = "x" * 200_000
    status, seen, _ = await front.call("POST", "/api/v1/query", json={"message": message, "session_id": "s"})
    assert status == 200
    assert message in seen["body"]


async def test_sessions_stay_with_a_replica_and_spread_over_all(nginx: StartFront) -> None:
    front = await nginx(heavy=3)
    front.lightweight[0].handle = hand_off
    first = {f"s-{i}": (await front.query(f"s-{i}"))[1]["who"] for i in range(40)}
    again = {s: (await front.query(s, path="/api/v1/query/stream"))[1]["who"] for s in first}
    by_path = {s: (await front.call("GET", f"/api/v1/session/{s}?include=messages"))[1]["who"] for s in first}
    assert first == again == by_path
    assert set(first.values()) == {"heavy-1", "heavy-2", "heavy-3"}


async def test_a_killed_replica_is_replaced_and_the_other_sessions_stay(nginx: StartFront) -> None:
    front = await nginx(heavy=3)
    front.lightweight[0].handle = hand_off
    before = {f"s-{i}": (await front.query(f"s-{i}"))[1]["who"] for i in range(30)}
    gone = before["s-0"]
    await next(t for t in front.heavy if t.name == gone).stop()
    for session, who in before.items():
        status, seen, _ = await front.query(session)
        assert status == 200
        assert seen["who"] != gone
        assert who == gone or seen["who"] == who


async def broken_off(request: web.Request, body: bytes) -> web.Response:
    """What a replica looks like that is killed while it answers."""
    assert request.transport
    request.transport.abort()
    return web.Response()


async def test_a_post_that_was_sent_is_not_sent_again(nginx: StartFront) -> None:
    """A rule's API may have been called."""
    front = await nginx(lightweight=2)
    for tier in front.lightweight:
        tier.handle = broken_off
    status, problem, headers = await front.query("s-1")
    assert (status, problem["code"], headers["retry-after"]) == (503, "dependency_unavailable", "1")
    assert sum(len(t.requests) for t in front.lightweight) == 1


async def test_a_hand_off_goes_to_the_next_replica_when_one_dies(nginx: StartFront) -> None:
    """With the same ticket and body: the turn that it names may have begun, and is gone on with."""
    front = await nginx()
    front.lightweight[0].handle = hand_off
    for tier in front.heavy:
        tier.handle = broken_off
    assert (await front.query("s-1"))[0] == 503
    assert [len(t.requests) for t in front.heavy] == [1, 1]
    first = next(t for t in front.heavy if t.requests)
    first.handle = None

    async def answered() -> Any:
        status, seen, _ = await front.query("s-2")
        return seen if status == 200 else None

    await wait_until(answered, "Nginx tries the two again")
    seen = await answered()
    assert seen["who"] == first.name
    assert seen["headers"]["x-loadsplit-ticket"] == "v1.real.ticket"
    assert json.loads(seen["body"])["session_id"] == "s-2"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/query"),
        ("POST", "/api/v1/query/stream"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("GET", "/v1/models"),
        ("GET", "/api/v1/turns/t_1"),
        ("GET", "/api/v1/session/s-1"),
        ("GET", "/api/v1/health"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/"),
        ("GET", "/assets/app.js"),
    ],
)
async def test_no_location_lets_forged_headers_through(nginx: StartFront, method: str, path: str) -> None:
    front = await nginx(heavy=1)
    status, seen, _ = await front.call(method, path, headers=FORGED)
    assert status == 200
    sent = seen["headers"]
    assert {"x-loadsplit-ticket", "x-loadsplit-session", "forwarded", "x-forwarded-port"} & sent.keys() == set()
    assert not [name for name in sent if name.startswith("x-accel")]
    assert sent["x-forwarded-for"] == sent["x-real-ip"] == "127.0.0.1"
    assert sent["x-forwarded-proto"] == "http"
    assert "evil" not in str(seen["headers"])


async def test_a_forged_ticket_is_replaced_on_the_hand_off_too(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    front.lightweight[0].handle = hand_off
    sent = (await front.query("s-1", headers=FORGED))[1]["headers"]
    assert sent["x-loadsplit-ticket"] == "v1.real.ticket"
    assert sent["x-loadsplit-session"] == "acme/s-1"


async def test_a_hand_off_without_a_ticket_carries_none(nginx: StartFront) -> None:
    front = await nginx(heavy=1)

    async def bare(request: web.Request, body: bytes) -> web.Response:
        return web.Response(headers={"X-Accel-Redirect": "@heavy"})

    front.lightweight[0].handle = bare
    _, seen, _ = await front.query("s-1", headers=FORGED)
    assert {"x-loadsplit-ticket", "x-loadsplit-session"} & seen["headers"].keys() == set()


async def test_heavy_cannot_steer_nginx(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    front.lightweight[0].handle = hand_off

    async def steering(request: web.Request, body: bytes) -> web.Response:
        more = {"X-Accel-Redirect": "/problem", "X-Accel-Limit-Rate": "1", "X-Loadsplit-Ticket": "leak", "X-Loadsplit-Session": "leak"}
        return web.json_response({"fine": True}, headers=more)

    front.heavy[0].handle = steering
    for status, body, headers in (await front.query("s-1"), await front.call("GET", "/api/v1/turns/t_1")):
        assert (status, body) == (200, {"fine": True})
        assert not [name for name in headers if name.startswith(("x-accel", "x-loadsplit-ticket", "x-loadsplit-session"))]


async def test_a_stream_passes_at_once_and_ends_with_its_client(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    front.lightweight[0].handle = hand_off
    go_on, gone = asyncio.Event(), asyncio.Event()

    async def streaming(request: web.Request, body: bytes) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b"id: 1\n\n")
        await go_on.wait()
        await reply.write(b"id: 2\n\n")
        await wait_until(lambda: request.transport is None or request.transport.is_closing(), "the client's end reaches heavy")
        gone.set()
        return reply

    front.heavy[0].handle = streaming
    async with front.http.post(front.url + "/api/v1/query/stream", json={"message": "m", "session_id": "s"}) as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert await asyncio.wait_for(reply.content.readexactly(7), 5) == b"id: 1\n\n"
        # lightweight's part was over when heavy's began: none of its requests runs while the stream does
        assert (len(front.lightweight[0].requests), front.lightweight[0].running) == (1, 0)
        go_on.set()
        assert await asyncio.wait_for(reply.content.readexactly(7), 5) == b"id: 2\n\n"
        reply.close()
    await asyncio.wait_for(gone.wait(), 10)
