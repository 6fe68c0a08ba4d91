"""One POST to a URL that somebody gave: what comes of it, and what it can cost, whatever the receiver does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp.abc import ResolveResult

from common.endpoints.egress import EgressPolicy
from common.endpoints.post import OwnThreads, Posted, Poster
from tests.common.endpoints.hostile_api import HostileApi, hostile_api
from tests.common.endpoints.test_call import Rebinding
from tests.support.services import free_port

LOCAL = EgressPolicy(("127.0.0.0/8",), public_only=True)
BODY = b'{"type":"session.closed"}'


@pytest.fixture
async def api() -> AsyncIterator[HostileApi]:
    async with hostile_api() as it:
        yield it


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    async with Poster(LOCAL) as it:
        yield it


async def post(poster: Poster, url: str, seconds: float = 5) -> Posted:
    return await poster.post(url, BODY, {"webhook-id": "msg_1"}, seconds=seconds)


async def test_a_message_arrives_as_it_is(api: HostileApi, poster: Poster) -> None:
    assert await post(poster, api.url + "/hook/a%2Fb?x=%20&y=1") == Posted(200)
    ((method, path, headers, body),) = api.asked
    assert (method, path, body) == ("POST", "/hook/a%2Fb?x=%20&y=1", BODY)
    assert (headers["webhook-id"], headers["content-type"], headers["user-agent"]) == ("msg_1", "application/json", "loadsplit")
    assert "cookie" not in headers


async def test_any_2xx_is_good(api: HostileApi, poster: Poster) -> None:
    assert await post(poster, api.url + "/none") == Posted(204)
    api.answers = [201, 299]
    assert [(await post(poster, api.url + "/flaky")).status for _ in range(2)] == [201, 299]


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
async def test_any_other_status_is_not(api: HostileApi, poster: Poster, status: int) -> None:
    assert await post(poster, f"{api.url}/fail/{status}") == Posted(status, f"the receiver answered {status}")


async def test_redirects_are_not_followed(api: HostileApi, poster: Poster) -> None:
    assert await post(poster, api.url + "/redirect") == Posted(302, "the receiver answered 302")
    assert len(api.asked) == 1


async def test_retry_after(api: HostileApi, poster: Poster) -> None:
    async def asked(value: str) -> float | None:
        api.retry_after = value
        return (await post(poster, api.url + "/busy")).retry_after

    assert [await asked(v) for v in ("120", " 7 ", "0", "soon", "-5", "1.5", "")] == [120, 7, 0, None, None, None, None]
    assert await asked("9" * 400) == 999_999_999
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert await asked(later) == pytest.approx(90, abs=3)
    assert await asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0


async def test_one_that_does_not_answer(api: HostileApi, poster: Poster) -> None:
    began = time.monotonic()
    assert await post(poster, api.url + "/slow", 0.2) == Posted(None, "the receiver did not answer within 0.2 s")
    assert time.monotonic() - began < 2


async def test_what_is_read_of_an_answer_is_bounded(api: HostileApi, poster: Poster) -> None:
    assert await post(poster, api.url + "/flood") == Posted(200)
    assert api.sent < 50_000_000
    assert (await post(poster, api.url + "/declared")).status == 200  # a gigabyte is announced and never comes
    assert (await post(poster, api.url + "/bomb", 50)).status == 200  # it takes the API seconds to make


async def test_an_answer_that_breaks_off_behind_its_status(api: HostileApi, poster: Poster) -> None:
    assert await post(poster, api.url + "/half") == Posted(200)


async def test_connections_that_fail(api: HostileApi, poster: Poster) -> None:
    assert (await post(poster, api.url + "/reset")).reason == "the receiver broke off"
    assert (await post(poster, f"http://127.0.0.1:{free_port()}/")).reason == "the receiver could not be reached"
    assert "TLS" in str((await post(poster, f"https://127.0.0.1:{api.port}/")).reason)
    assert (await post(poster, "nonsense")).reason == "the URL is wrong"


class KnowsNothing(Rebinding):
    """A name server without any name."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_name_that_nobody_knows() -> None:
    async with Poster(LOCAL, resolver=KnowsNothing()) as poster:
        assert await post(poster, "http://hook.example/") == Posted(None, "its host name is not known")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.1.1"])
async def test_names_that_lead_inside(api: HostileApi, address: str) -> None:
    async with Poster(EgressPolicy(public_only=True), resolver=Rebinding(address)) as poster:
        assert (await post(poster, f"http://hook.example:{api.port}/x")).reason == "its address is refused by the egress policy"
    assert api.asked == []


async def test_a_name_that_is_looked_up_for_ever_holds_up_nobody_else(api: HostileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-ups stand in threads of their own."""
    real, begun, go = socket.getaddrinfo, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def look_up(host: str, *args: object, **more: object) -> object:
        if host == "stuck.example":
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
            host = "127.0.0.1"
        return real(host, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with Poster(LOCAL, resolver=OwnThreads()) as poster:
        stuck = [asyncio.create_task(post(poster, f"http://stuck.example:{api.port}/{n}", 30)) for n in range(10)]
        await begun.wait()
        assert await loop.run_in_executor(None, lambda: "free") == "free"
        assert (await post(poster, f"http://localhost:{api.port}/x")).status == 200
        go.set()
        assert {(await task).status for task in stuck} == {200}
