"""Requests, streams and turns of a tenant at its limits, over HTTP: which refusal, and that nobody else feels it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.web.auth import hash_key
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.waiting import wait_until

A, B = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}


def key_file(folder: Path, **limits: float) -> str:
    """A file with a key of each of two tenants, of which the first has these limits."""
    rows: list[dict[str, Any]] = [{"id": t, "tenant": t, "scopes": ["query"], "hash": hash_key(t)} for t in ("a", "b")]
    rows[0]["limits"] = limits
    path = folder / "keys.json"
    path.write_text(json.dumps(rows))
    return str(path)


async def ask(shop: InProcess, headers: dict[str, str], message: str = "opening hours", session: str = "s1") -> tuple[int, Any]:
    return await shop.call("POST", "/api/v1/query", {"message": message, "session_id": session}, headers=headers)


async def test_requests_of_all_kinds_count_once_and_their_own_tenant(tmp_path: Path) -> None:
    async with in_process(WORKFLOW, tmp_path, api_keys=key_file(tmp_path, requests_per_minute=4)) as shop:
        assert (await ask(shop, A))[0] == 200
        assert (await ask(shop, A, "a human"))[0] == 200  # handed to heavy with a ticket: counted once
        assert (await shop.call("GET", "/api/v1/session/s1", headers=A))[0] == 200
        assert (await shop.call("GET", "/api/v1/sessions?status=transferred", headers=A))[0] == 200
        for refused in (await ask(shop, A), await shop.call("GET", "/api/v1/session/s1", headers=A)):
            status, problem = refused
            assert (status, problem["code"], problem["retryable"]) == (429, "rate_limited", True)
            assert (problem["limit"], problem["value"], problem["used"]) == ("requests_per_minute", 4, 4)
            assert 1 <= problem["retry_after"] <= 15
            checked("Problem", problem)
        assert (await ask(shop, B))[0] == 200
        for path in ("/livez", "/readyz", "/metrics", "/", "/openapi.json", "/api/v1/health"):
            async with shop.http.get(shop.url + path, headers=A) as reply:
                assert reply.status == 200, path
        async with shop.http.get(shop.url + "/api/v1/session/s1", headers=A) as reply:
            assert (reply.status, reply.headers["x-loadsplit-tier"]) == (429, "heavy")
            assert int(reply.headers["retry-after"]) >= 1


async def test_a_socket_counts_as_a_request_and_as_a_stream(tmp_path: Path) -> None:
    keys = key_file(tmp_path, requests_per_minute=3, open_streams=1)
    async with in_process(WORKFLOW, tmp_path, api_keys=keys) as shop:
        url = f"{shop.url}/api/v1/session/s1/ws"
        async with shop.http.ws_connect(url, protocols=("loadsplit", "bearer.a")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await shop.http.ws_connect(url, headers=A)
            assert caught.value.status == 429
            async with shop.http.get(f"{shop.url}/api/v1/session/s1/events", headers=A) as reply:
                assert (reply.status, (await reply.json())["limit"]) == (429, "open_streams")
            async with shop.http.get(f"{shop.url}/api/v1/session/s1/events", headers=B) as reply:
                assert reply.status == 200
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await shop.http.ws_connect(url, headers=A)
        assert caught.value.status == 429


async def test_a_stream_that_is_refused_leaves_no_turn(tmp_path: Path) -> None:
    async with in_process(WORKFLOW, tmp_path, api_keys=key_file(tmp_path, open_streams=1)) as shop:
        async with shop.events(headers=A):
            body = {"message": "a human", "session_id": "s9"}
            status, problem = await shop.call("POST", "/api/v1/query/stream", body, headers=A)
            assert (status, problem["limit"]) == (429, "open_streams")
            assert (await ask(shop, A))[0] == 200
            assert (await shop.call("GET", "/api/v1/session/s9", headers=A))[0] == 404

        async def completes() -> bool:
            async with shop.http.post(f"{shop.url}/api/v1/query/stream", json=body, headers=A) as reply:
                return b"event: complete" in await reply.read()

        await wait_until(completes, "the closed stream is given back", 5)


async def test_a_ticket_that_does_not_hold_is_no_way_around(tmp_path: Path) -> None:
    async with in_process(WORKFLOW, tmp_path, api_keys=key_file(tmp_path, requests_per_minute=1)) as shop:
        forged = {**A, "X-Loadsplit-Ticket": "v1.x.y"}
        assert (await shop.call("GET", "/api/v1/session/s1", headers=forged))[0] == 404
        assert (await shop.call("GET", "/api/v1/session/s1", headers=forged))[0] == 429


async def test_a_spent_budget_still_leads_to_a_person(tmp_path: Path) -> None:
    """What rules answer costs nothing, and neither does a hand-off to a human, nor a word to one."""
    async with in_process(WORKFLOW, tmp_path, api_keys=key_file(tmp_path, tokens_per_day=0)) as shop:
        status, problem = await ask(shop, A, "tell me a story")
        assert (status, problem["code"], problem["limit"], problem["retryable"]) == (429, "budget_exceeded", "tokens_per_day", False)
        assert 1 <= problem["retry_after"] <= 86400
        checked("Problem", problem)
        assert (await ask(shop, A))[0] == 200
        assert (await ask(shop, A, "a human"))[1]["status"] == "transferred"
        assert (await ask(shop, A, "are you there?"))[1]["status"] == "transferred"


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    """Both kinds; the streams of another key go on."""
    path = tmp_path / "keys.json"
    keys = key_file(tmp_path)
    async with in_process(WORKFLOW, tmp_path, api_keys=keys) as shop:
        url = f"{shop.url}/api/v1/session/s1"
        async with (
            shop.http.get(f"{url}/events", headers=A) as events,
            shop.http.get(f"{url}/events", headers=B) as others,
            shop.http.ws_connect(f"{url}/ws", protocols=("loadsplit", "bearer.a")) as socket,
        ):
            path.write_text(json.dumps(json.loads(path.read_text())[1:]))
            with pytest.raises(aiohttp.ClientError):
                await events.read()
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
            assert await others.content.readline() == b"retry: 1000\n"
            assert not others.content.at_eof()
            assert (await shop.call("GET", "/api/v1/session/s1", headers=A))[0] == 401
