"""A session's events as SSE and as a WebSocket: replay, follow, several watchers, deletion, draining, keys, bad input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.web.auth import hash_key
from heavy import streaming
from tests.heavy.routes.conftest import WORKFLOW
from tests.support.in_process import InProcess, in_process
from tests.support.waiting import wait_until

EVENTS, SOCKET = "/api/v1/session/s1/events", "/api/v1/session/s1/ws"


async def say(shop: InProcess, *texts: str, session: str = "s1") -> None:
    for text in texts:
        status, _ = await shop.call("POST", f"/api/v1/session/{session}/handoff", {"action": "message", "text": text, "by": "ann"})
        assert status == 200


@pytest.mark.parametrize("how", [{"headers": {"Last-Event-ID": "2"}}, {"params": {"starting_after": "2"}}])
async def test_replay_and_then_live(shop: InProcess, how: dict[str, Any]) -> None:
    await shop.ask("a human")
    await say(shop, "one", "two")
    async with shop.events() as whole, shop.events(**how) as rest:
        assert [(await whole.next())[1] for _ in range(4)] == [
            "session.transferred", "session.accepted", "session.message", "session.message",
        ]  # fmt: skip
        assert [(await rest.next())[0] for _ in range(2)] == [3, 4]
        await say(shop, "three")
        for events in (whole, rest):
            number, _, data = await events.next()
            assert (number, data["text"]) == (5, "three")
    await wait_until(lambda: not shop.heavy.session_reader._watches, "nobody watches any more")


async def test_the_watchers_of_a_session_share_one_look(shop: InProcess) -> None:
    async with shop.events() as one, shop.events() as two, shop.events("s2"):
        await wait_until(lambda: len(shop.heavy.session_reader._watches) == 2, "both sessions are watched")
        await shop.ask("a human")
        assert await one.next() == await two.next()


async def test_nothing_told_is_found_by_looking(shop: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LOOK_SECONDS", 0.02)

    async def silent(channel: str, message: bytes) -> None:
        """A hot store that loses what is published."""

    async with shop.events() as events:
        monkeypatch.setattr(shop.heavy.hotstore, "publish", silent)
        await shop.ask("a human")
        assert (await events.next())[1] == "session.transferred"


async def test_many_events_come_page_by_page(shop: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAGE", 3)
    await shop.ask("a human")
    await say(shop, *(str(n) for n in range(8)))
    async with shop.events() as events:
        assert [(await events.next())[0] for _ in range(10)] == list(range(1, 11))


async def test_a_session_that_begins_anew(shop: InProcess) -> None:
    await shop.ask("a human")
    await say(shop, "one", "two")
    async with shop.events(params={"starting_after": "4"}) as events:
        await shop.call("DELETE", "/api/v1/session/s1")
        await shop.ask("a human")
        assert (await events.next())[:2] == (1, "session.transferred")
    async with shop.events(params={"starting_after": "99"}) as events:
        assert (await events.next())[0] == 1


async def test_a_draining_process_ends_its_streams(shop: InProcess) -> None:
    async with shop.events() as events:
        await wait_until(lambda: shop.heavy.session_reader._watches, "it is watched")
        shop.inflight.drain()
        with pytest.raises(EOFError):
            await events.next()


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9999999999", "٣"])
async def test_a_bad_number_is_refused(shop: InProcess, value: str) -> None:
    status, problem = await shop.call("GET", EVENTS, params={"starting_after": value})
    assert (status, problem["field"]) == (400, "starting_after")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await shop.http.ws_connect(shop.url + SOCKET, params={"starting_after": value})
    assert refused.value.status == 400


async def test_the_socket_tells_the_same(shop: InProcess) -> None:
    await shop.ask("a human")
    async with shop.http.ws_connect(shop.url + SOCKET) as socket:
        first = await socket.receive_json(timeout=5)
        assert (first["id"], first["type"], first["data"]["action"]) == (1, "session.transferred", "human")
        await socket.send_str('{"type": "ack"}')
        await socket.send_str('{"type": "ping"}')
        await say(shop, "one")
        assert [(await socket.receive_json(timeout=5))["id"] for _ in range(2)] == [2, 3]
    async with shop.http.ws_connect(shop.url + SOCKET + "?starting_after=2") as socket:
        assert (await socket.receive_json(timeout=5))["data"]["text"] == "one"
    await wait_until(lambda: not shop.heavy.session_reader._watches, "nobody watches any more")


@pytest.mark.parametrize("said", ["hello", "[]", '"ack"', '{"type": "message", "message": "hi"}', "{", b"\x00"])
async def test_the_socket_closes_on_what_it_does_not_understand(shop: InProcess, said: str | bytes) -> None:
    async with shop.http.ws_connect(shop.url + SOCKET) as socket:
        await (socket.send_str(said) if isinstance(said, str) else socket.send_bytes(said))
        closing = await socket.receive(timeout=5)
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1003)
        assert "ping" in (closing.extra or "")


async def test_a_page_of_another_origin_may_not_listen(shop: InProcess) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await shop.http.ws_connect(shop.url + SOCKET, headers={"Origin": "https://evil.example"})
    assert refused.value.status == 403
    async with shop.http.ws_connect(shop.url + SOCKET, headers={"Origin": shop.url}) as socket:
        assert not socket.closed


@asynccontextmanager
async def with_keys(folder: Path) -> AsyncIterator[InProcess]:
    rows = [{"id": t, "tenant": t, "scopes": ["query"], "hash": hash_key(f"key-{t}")} for t in ("acme", "other")]
    rows.append({"id": "none", "tenant": "acme", "scopes": ["llm"], "hash": hash_key("key-none")})
    (folder / "keys.json").write_text(json.dumps(rows))
    async with in_process(WORKFLOW, folder, api_keys=str(folder / "keys.json")) as shop:
        yield shop


async def test_keys_by_header_or_subprotocol(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as shop:
        mine = {"Authorization": "Bearer key-acme"}
        await shop.call("POST", "/api/v1/query", {"message": "a human", "session_id": "s1"}, headers=mine)
        for given in ({"headers": mine}, {"protocols": ("loadsplit", "bearer.key-acme")}, {"protocols": ("bearer.key-acme",)}):
            async with shop.http.ws_connect(shop.url + SOCKET, **given) as socket:
                assert (await socket.receive_json(timeout=5))["type"] == "session.transferred"
                assert socket.protocol == (given["protocols"][0] if "protocols" in given else None)
        for key, status in (("wrong", 401), ("key-none", 403)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await shop.http.ws_connect(shop.url + SOCKET, protocols=("loadsplit", f"bearer.{key}"))
            assert refused.value.status == status
        assert (await shop.call("GET", EVENTS))[0] == 401
        assert (await shop.call("GET", EVENTS, headers={"Authorization": "Bearer key-none"}))[0] == 403


async def test_another_tenant_sees_another_session(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as shop:
        mine, theirs = {"Authorization": "Bearer key-acme"}, {"Authorization": "Bearer key-other"}
        async with shop.events(headers=theirs) as events:
            await shop.call("POST", "/api/v1/query", {"message": "a human", "session_id": "s1"}, headers=mine)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await events.next()
        assert (await shop.call("POST", "/api/v1/session/s1/handoff", {"action": "accept"}, headers=theirs))[0] == 404
        assert (await shop.call("GET", "/api/v1/sessions?status=transferred", headers=theirs))[1] == {"sessions": []}


async def test_any_replica_tells_it(tmp_path: Path, redis_database: str) -> None:
    shared = {"redis_url": redis_database, "database_url": f"sqlite:///{tmp_path / 'shared.db'}"}
    async with in_process(WORKFLOW, tmp_path, **shared) as one, in_process(WORKFLOW, tmp_path, **shared) as two:
        async with two.events() as events:
            await one.ask("a human")
            assert (await events.next())[1] == "session.transferred"
        await say(one, "hello")
        async with two.events(headers={"Last-Event-ID": "2"}) as events:
            assert (await events.next())[2]["text"] == "hello"
