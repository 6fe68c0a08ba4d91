"""The public face of Nginx: closed paths, limits, its own errors as problems, request ids, the access log."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from aiohttp import web

from common import errors
from tests.support.fake_tiers import StartFront, hand_off
from tests.support.waiting import wait_until

MEMBERS = {"type", "title", "status", "detail", "code", "request_id", "retryable"}


def problem_of(error: type[errors.LoadsplitError]) -> dict[str, object]:
    """What Nginx must say for this class of the tree."""
    return {
        "type": f"https://loadsplit.dev/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "retryable": error.retryable,
    }


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/x/../metrics",
        "/admin",
        "/admin/api/keys",
        "/Admin",
        "/problem",
        "/nope",
        "/api",
    ],
)
async def test_what_is_not_public_is_not_there(nginx: StartFront, path: str) -> None:
    front = await nginx(heavy=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(front.url.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 404")
    assert '"code":"not_found"' in answer
    assert "application/problem+json" in answer
    assert not front.heavy[0].requests
    assert not front.lightweight[0].requests


async def test_a_body_too_large_is_a_problem(nginx: StartFront) -> None:
    front = await nginx()
    for path in ("/api/v1/query", "/api/v1/turns/t_1/cancel"):
        status, problem, headers = await front.call("POST", path, data=b"x" * 262_145)
        assert status == 413
        assert problem.items() >= problem_of(errors.PayloadTooLarge).items()
        assert problem.keys() == MEMBERS
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-request-id"] == problem["request_id"]
    assert (await front.call("POST", "/api/v1/query", data=b"x" * 262_144))[0] == 200


async def test_a_batch_may_be_larger(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    assert (await front.call("POST", "/api/v1/batch", data=io.BytesIO(b"x" * 16_777_216)))[0] == 200
    assert len(front.heavy[0].requests) == 1
    status, problem, _ = await front.call("POST", "/api/v1/batch", data=io.BytesIO(b"x" * 16_777_217))
    assert (status, problem["detail"]) == (413, "the body is larger than 16777216 bytes")
    status, problem, _ = await front.call("POST", "/api/v1/batch/b_1", data=b"x" * 262_145)
    assert (status, problem["detail"]) == (413, "the body is larger than 262144 bytes")
    assert len(front.heavy[0].requests) == 1


async def test_a_prompt_may_be_longer_and_is_handed_on(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    front.lightweight[0].handle = hand_off
    for path in ("/v1/chat/completions", "/v1/messages"):
        prompt = json.dumps({"session_id": "s-1", "messages": "x" * 1_000_000})
        status, seen, _ = await front.call("POST", path, data=io.BytesIO(prompt.encode()))
        assert (status, seen["who"], seen["body"]) == (200, "heavy-1", prompt)
        assert (await front.call("POST", path, data=io.BytesIO(b"x" * 16_777_217)))[0] == 413
    assert [r.path for r in front.lightweight[0].requests] == ["/v1/chat/completions"]


async def test_clients_of_llm_apis_are_told_in_their_shape(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    front.lightweight[0].handle = hand_off
    await front.heavy[0].stop()
    body = b'{"session_id": "s-1"}'
    for path, kind in (("/v1/chat/completions", "server_error"), ("/v1/models", "server_error"), ("/v1/messages", "overloaded_error")):
        status, doc, headers = await front.call("POST", path, data=body)
        assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/json", "1")
        assert headers["x-should-retry"] == "true"
        error = doc["error"]
        assert (error["type"], error["code"], error["retryable"]) == (kind, "dependency_unavailable", True)
        assert error["message"] == "no replica of the tier that answers this can be reached"
        assert error["request_id"] == headers["x-request-id"]
        assert (doc.get("type"), doc.get("request_id")) == (("error", error["request_id"]) if path == "/v1/messages" else (None, None))
    status, doc, _ = await front.call("POST", "/v1/chat/completions", data=io.BytesIO(b"x" * 16_777_217))
    assert (status, doc["error"]["code"], doc["error"]["param"]) == (413, "payload_too_large", None)
    assert (await front.call("GET", "/problem/openai"))[1]["code"] == "not_found"


async def test_every_replica_away_is_dependency_unavailable(nginx: StartFront) -> None:
    front = await nginx()
    front.lightweight[0].handle = hand_off
    for tier in front.heavy:
        await tier.stop()
    for status, problem, headers in (await front.query("s-1"), await front.call("GET", "/api/v1/session/s"), await front.call("GET", "/")):
        assert status == 503
        assert problem.items() >= problem_of(errors.DependencyUnavailable).items()
        assert headers["retry-after"] == "1"
    await front.lightweight[0].stop()
    assert (await front.query("s-1"))[0] == 503
    assert (await front.call("GET", "/livez"))[0] == 200


async def test_a_replica_that_returns_is_used_again(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    await front.heavy[0].stop()
    assert (await front.call("GET", "/api/v1/health"))[0] == 503
    await front.heavy[0].start()

    async def back() -> bool:
        return (await front.call("GET", "/api/v1/health"))[0] == 200

    await wait_until(back, "heavy is asked again", 5)


async def test_a_lightweight_replica_that_is_away_is_passed_over(nginx: StartFront) -> None:
    front = await nginx(lightweight=2)
    await front.lightweight[0].stop()
    replies = [await front.query(f"s-{i}") for i in range(8)]
    assert {(status, seen["who"]) for status, seen, _ in replies} == {(200, "lightweight-2")}


async def test_errors_of_an_upstream_pass_unchanged(nginx: StartFront) -> None:
    front = await nginx(heavy=1)

    async def refuse(request: web.Request, body: bytes) -> web.Response:
        return web.json_response({"code": "overloaded"}, status=503, headers={"Retry-After": "7"}, content_type="application/problem+json")

    front.lightweight[0].handle = refuse
    status, problem, headers = await front.query("s")
    assert (status, problem, headers["retry-after"]) == (503, {"code": "overloaded"}, "7")
    assert len(front.lightweight[0].requests) == 1


async def test_too_many_connections_of_one_client_are_429(nginx: StartFront) -> None:
    front = await nginx(heavy=1, connections_per_client=2)
    go_on = asyncio.Event()

    async def wait(request: web.Request, body: bytes) -> web.Response:
        await go_on.wait()
        return web.json_response({})

    front.heavy[0].handle = wait
    running = [asyncio.create_task(front.call("GET", "/api/v1/turns/t/stream")) for _ in range(2)]
    await wait_until(lambda: len(front.heavy[0].requests) == 2, "two requests run")
    status, problem, headers = await front.call("GET", "/api/v1/turns/t/stream")
    go_on.set()
    assert [r[0] for r in await asyncio.gather(*running)] == [200, 200]
    assert status == 429
    assert problem.items() >= problem_of(errors.RateLimited).items()
    assert headers["retry-after"] == "1"


async def test_too_many_requests_of_one_client_in_a_second_are_429(nginx: StartFront) -> None:
    """A second's worth may come at once, and a hand-off is one request."""
    front = await nginx(heavy=1, requests_per_client=5)
    front.lightweight[0].handle = hand_off
    replies = [await front.query("s") for _ in range(20)]
    served = [status for status, _, _ in replies].count(200)
    assert 6 <= served < 20
    assert len(front.heavy[0].requests) == served
    status, problem, headers = next(r for r in replies if r[0] != 200)
    assert (status, headers["retry-after"]) == (429, "1")
    assert problem.items() >= problem_of(errors.RateLimited).items()
    assert (await front.call("GET", "/livez"))[0] == 200


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1._Z", True), ("x" * 128, True), ("x" * 129, False), ('a"b', False), ("a b", False), ("", False)],
)
async def test_request_ids(nginx: StartFront, sent: str, kept: bool) -> None:
    front = await nginx(heavy=1)
    seen = (await front.query("s", headers={"X-Request-Id": sent}))[1]["headers"]
    lost = (await front.call("GET", "/nope", headers={"X-Request-Id": sent}))[2]
    for got in (seen["x-request-id"], lost["x-request-id"]):
        assert (got == sent) is kept
        assert kept or len(got) == 32


async def test_the_access_log_follows_a_hand_off(nginx: StartFront) -> None:
    front = await nginx()
    front.lightweight[0].handle = hand_off
    await front.query("s-1", headers={"X-Request-Id": "r-1"})
    await front.call("GET", "/nope?secret=1")
    await wait_until(lambda: len(front.access_log()) == 2, "both lines are written")
    first, second = front.access_log()
    assert first["request_id"] == "r-1"
    assert first["upstream"].startswith(front.lightweight[0].address + " : 127.0.0.1:")
    assert first["upstream_status"] == "200 : 200"
    assert first["tier"] == "heavy"
    assert float(first["seconds"]) >= 0
    assert (second["status"], second["uri"]) == ("404", "/problem")
    assert "secret" not in str(second)


async def test_a_malformed_request_is_a_problem(nginx: StartFront) -> None:
    front = await nginx(heavy=1)
    port = int(front.url.rpartition(":")[2])
    for raw, status in (
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.split(b" ")[1] == status
        assert b'"code":"invalid_request"' in answer
        assert b'"status":' + status in answer


async def test_a_sessions_socket_passes_and_no_other_upgrade_does(nginx: StartFront) -> None:
    front = await nginx(heavy=2)

    async def socket(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        there = web.WebSocketResponse(protocols=("loadsplit",))
        await there.prepare(request)
        await there.send_json({"path": request.path_qs, "key": request.headers["Sec-WebSocket-Protocol"]})
        async for message in there:
            await there.send_str(message.data)
        return there

    for tier in front.heavy:
        tier.handle = socket
    path = "/api/v1/session/s-1/ws?starting_after=3"
    async with front.http.ws_connect(front.url + path, protocols=("loadsplit", "bearer.k")) as here:
        assert await here.receive_json() == {"path": path, "key": "loadsplit,bearer.k"}
        await here.send_str("hello")
        assert await here.receive_str() == "hello"
        assert here.protocol == "loadsplit"
    for tier in front.heavy:
        tier.handle = None
    asked = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for elsewhere in ("/api/v1/session/s-1", "/api/v1/session/s-1/events", "/api/v1/turns/t_1", "/ws"):
        _, seen, _ = await front.call("GET", elsewhere, headers=asked)
        assert seen is None or "upgrade" not in seen.get("headers", {})
