"""The plain ASGI steps: bodies and their limits, request ids, JSON replies."""

from __future__ import annotations

import pytest

from common.errors import PayloadTooLarge, UnsupportedMediaType
from common.web.asgi import ClientDisconnected, header, read_body, request_id, send_json
from tests.common.web.calls import Sent, body_of, scope


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", None])
async def test_bodies_are_read(kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert await read_body(scope(headers=headers), body_of(b"ab", b"", b"c")) == b"abc"
    assert await read_body(scope(headers=headers), body_of(b"")) == b""


@pytest.mark.parametrize("kind", ["text/plain", "application/jsonp", "", "multipart/form-data; boundary=x"])
async def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        await read_body(scope(headers={"content-type": kind}), body_of(b"{}"))


async def test_large_bodies_are_refused() -> None:
    assert len(await read_body(scope(), body_of(b"x" * 10), limit=10)) == 10
    for receive in (body_of(b"x" * 11), body_of(b"x" * 6, b"x" * 6, b"x" * 99)):
        with pytest.raises(PayloadTooLarge):
            await read_body(scope(), receive, limit=10)


@pytest.mark.parametrize("headers", [{"content-length": "11"}, {"content-type": "text/plain"}, {}])
async def test_what_is_refused_is_read_to_its_end(headers: dict[str, str]) -> None:
    """A client that still sends when the server closes would see a reset connection, not the problem."""
    receive = body_of(b"x" * 6, b"x" * 6, b"x" * 6)
    with pytest.raises((PayloadTooLarge, UnsupportedMediaType)):
        await read_body(scope(headers=headers), receive, limit=10)
    assert (await receive())["type"] == "http.disconnect"


async def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(scope(), body_of())


def test_request_ids() -> None:
    assert request_id(scope(headers={"X-Request-Id": "abc.1-Z_"})) == "abc.1-Z_"
    for bad in ("", "a b", "x" * 129, "a\n", "é"):
        made = request_id(scope(headers={"X-Request-Id": bad}))
        assert len(made) == 32
    one = scope()
    assert request_id(one) == request_id(one)


def test_headers_are_found() -> None:
    assert header(scope(headers={"X-A": "1"}), b"x-a") == b"1"
    assert header(scope(), b"x-a") is None


async def test_json_replies() -> None:
    sent = Sent()
    await send_json(sent, 201, b"{}", [(b"x-a", b"1")])
    assert (sent.status, sent.body) == (201, b"{}")
    assert sent.headers == {"content-type": "application/json", "content-length": "2", "x-a": "1"}
