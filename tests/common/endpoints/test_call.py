"""Declared calls against a real server that misbehaves: what comes back, what is refused, and what it costs."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from common.endpoints.call import EndpointFailed, HttpCaller, compile_endpoint
from common.endpoints.egress import EgressPolicy
from common.endpoints.request import CompiledEndpoint
from common.telemetry.metrics import Metrics
from common.workflow.schema import Endpoint
from tests.common.endpoints.hostile_api import HostileApi, hostile_api
from tests.support.waiting import wait_until

LOCAL = EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"}))


@pytest.fixture
async def api() -> AsyncIterator[HostileApi]:
    async with hostile_api() as it:
        yield it


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    async with HttpCaller(LOCAL) as it:
        yield it


def endpoint(url: str, **fields: Any) -> CompiledEndpoint:
    return compile_endpoint(Endpoint(url=url, **fields), name="flow f", env={})


async def failure(caller: HttpCaller, ep: CompiledEndpoint, variables: dict[str, Any] | None = None, **kw: Any) -> EndpointFailed:
    with pytest.raises(EndpointFailed) as caught:
        await caller.call(ep, variables or {}, **kw)
    assert "secret" not in caught.value.detail
    return caught.value


async def test_a_call_and_its_reply(api: HostileApi, caller: HttpCaller) -> None:
    got = await caller.call(endpoint(api.url + "/orders/{id}", headers={"X-Bot": "{bot}"}), {"id": "A/1", "bot": "cb"})
    assert got == {"ok": True, "path": "/orders/A%2F1", "asked": 1}
    _, _, headers, _ = api.asked[0]
    assert headers["x-bot"] == "cb"
    assert headers["user-agent"] == "loadsplit"
    assert "cookie" not in headers


async def test_connections_are_reused_and_cookies_are_not_kept(api: HostileApi, caller: HttpCaller) -> None:
    ep = endpoint(api.url + "/text?hex=6869")
    for _ in range(3):
        assert await caller.call(ep, {}) == "hi"
    assert all("cookie" not in headers for _, _, headers, _ in api.asked)


@pytest.mark.parametrize(
    ("kind", "data", "want"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("text/html", b' {"a":1}', {"a": 1}),
        ("application/problem+json", b"[1]", [1]),
        ("text/plain", b"{not json", "{not json"),
        ("text/plain", b"12", "12"),
        ("application/json", b"12", 12),
        ("text/plain; charset=gbk", "你好".encode("gbk"), "你好"),
        ("text/plain; charset=nowhere", b"x", "x"),
        ("text/plain", b"\xff", "\ufffd"),
    ],
)
async def test_replies_are_decoded(api: HostileApi, caller: HttpCaller, kind: str, data: bytes, want: Any) -> None:
    assert await caller.call(endpoint(api.url + "/text", query_params={"type": kind, "hex": data.hex()}), {}) == want


async def test_text_endpoints_are_not_decoded(api: HostileApi, caller: HttpCaller) -> None:
    ep = compile_endpoint(Endpoint(url=api.url + "/json?v=[1]"), name="skill s", env={}, as_text=True)
    assert await caller.call(ep, {}) == "[1]"


async def test_no_content_is_none(api: HostileApi, caller: HttpCaller) -> None:
    assert await caller.call(endpoint(api.url + "/none"), {}) is None


async def test_broken_json_is_a_failure(api: HostileApi, caller: HttpCaller) -> None:
    assert (await failure(caller, endpoint(api.url + "/json?v={", retries=0))).kind == "bad_json"


@pytest.mark.parametrize("status", [400, 404, 418, 500])
async def test_errors_are_not_repeated_and_leak_nothing(api: HostileApi, caller: HttpCaller, status: int) -> None:
    e = await failure(caller, endpoint(f"{api.url}/fail/{status}", retries=3))
    assert (e.kind, e.upstream_status, e.detail) == ("status", status, f"flow f: the API answered {status}")
    assert len(api.asked) == 1
    assert e.status == 502


async def test_redirects_are_not_followed(api: HostileApi, caller: HttpCaller) -> None:
    e = await failure(caller, endpoint(api.url + "/redirect"))
    assert (e.kind, e.upstream_status) == ("status", 302)
    assert [path for _, path, _, _ in api.asked] == ["/redirect"]


async def test_busy_answers_are_repeated_within_the_budget(api: HostileApi, caller: HttpCaller) -> None:
    api.answers = [503]
    assert await caller.call(endpoint(api.url + "/flaky", retries=1), {}) == {"status": 200}
    assert len(api.asked) == 2


async def test_writes_are_repeated_only_with_a_key(api: HostileApi, caller: HttpCaller) -> None:
    ep = endpoint(api.url + "/flaky", body={}, retries=2)
    api.answers = [502]
    assert (await failure(caller, ep)).upstream_status == 502
    assert len(api.asked) == 1
    api.answers = [502]
    assert await caller.call(ep, {}, idempotency_key="t1:c1") == {"status": 200}
    assert [headers.get("idempotency-key") for _, _, headers, _ in api.asked] == [None, "t1:c1", "t1:c1"]


async def test_a_failing_api_costs_few_retries_then_the_breaker_opens(api: HostileApi) -> None:
    metrics = Metrics()
    async with HttpCaller(LOCAL, metrics) as caller:
        ep = endpoint(api.url + "/fail/503", retries=3)
        kinds = [(await failure(caller, ep)).kind for _ in range(40)]
    assert kinds[-1] == "breaker_open"
    assert kinds.count("status") * 1.25 >= len(api.asked)
    page = metrics.render().decode()
    assert 'loadsplit_breaker_open{endpoint="flow f"} 1.0' in page
    assert 'loadsplit_endpoint_calls_total{endpoint="flow f",outcome="breaker_open"}' in page


@pytest.mark.parametrize(("path", "kind"), [("/reset", "connect"), ("/half", "connect")])
async def test_broken_connections(api: HostileApi, caller: HttpCaller, path: str, kind: str) -> None:
    assert (await failure(caller, endpoint(api.url + path, retries=0))).kind == kind


async def test_nobody_listens(caller: HttpCaller) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        e = await failure(caller, endpoint(f"http://127.0.0.1:{s.getsockname()[1]}/x", retries=0))
    assert e.kind == "connect"


async def test_the_time_out_covers_the_whole_call(api: HostileApi, caller: HttpCaller) -> None:
    began = time.monotonic()
    assert (await failure(caller, endpoint(api.url + "/slow", timeout=0.2, retries=3))).kind == "timeout"
    assert 0.15 < time.monotonic() - began < 2
    assert (await failure(caller, endpoint(api.url + "/slow"), deadline=time.time() + 0.2)).kind == "timeout"
    asked = len(api.asked)
    assert (await failure(caller, endpoint(api.url + "/slow"), deadline=time.time() - 1)).kind == "timeout"
    assert len(api.asked) == asked


def peak_mb() -> float:
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def test_a_flood_is_cut_off(api: HostileApi, caller: HttpCaller) -> None:
    before = peak_mb()
    assert (await failure(caller, endpoint(api.url + "/flood"))).kind == "too_large"
    assert (await failure(caller, endpoint(api.url + "/declared"))).kind == "too_large"
    assert peak_mb() - before < 40  # server and client are both in this process
    await wait_until(lambda: len(api.asked) == 2, "both were asked")
    assert api.sent < 50_000_000


async def test_a_bomb_is_cut_off(api: HostileApi) -> None:
    async with HttpCaller(LOCAL, max_response=100_000) as caller:
        assert (await failure(caller, endpoint(api.url + "/bomb"))).kind == "too_large"


async def test_deep_json_is_refused(api: HostileApi, caller: HttpCaller) -> None:
    assert (await failure(caller, endpoint(api.url + "/deep/300"))).kind == "bad_json"
    assert (await failure(caller, endpoint(api.url + "/deep/5000"))).kind == "bad_json"
    assert isinstance(await caller.call(endpoint(api.url + "/deep/60"), {}), dict)


async def test_success_when(api: HostileApi, caller: HttpCaller) -> None:
    ep = endpoint(api.url + "/json?v={v}", success_when="code == `0`")
    assert await caller.call(ep, {"v": {"code": 0}}) == {"code": 0}
    assert (await failure(caller, ep, {"v": {"code": 7}})).kind == "not_success"
    odd = endpoint(api.url + "/json?v={v}", success_when="length(code) > `0`")
    assert (await failure(caller, odd, {"v": {"code": 7}})).kind == "bad_result"


async def test_cached_calls_are_asked_once(api: HostileApi, caller: HttpCaller) -> None:
    ep = endpoint(api.url + "/x", cache_ttl=60, headers={"X-User": "{u}"})
    results = await asyncio.gather(*(caller.call(ep, {"u": "a"}) for _ in range(20)))
    assert len(api.asked) == 1
    assert all(r == results[0] for r in results)
    await caller.call(ep, {"u": "b"})
    assert len(api.asked) == 2


async def test_a_waiter_of_a_cached_call_has_its_own_deadline(api: HostileApi, caller: HttpCaller) -> None:
    ep = endpoint(api.url + "/slow", cache_ttl=60)
    patient = asyncio.ensure_future(caller.call(ep, {}))
    await wait_until(lambda: api.asked, "asked")
    assert (await failure(caller, ep, deadline=time.time() + 0.1)).kind == "timeout"
    api.go.set()
    assert await patient == {}
    assert len(api.asked) == 1


async def test_a_cancelled_call_leaves_the_breaker_alone(api: HostileApi, caller: HttpCaller) -> None:
    for _ in range(30):
        task = asyncio.ensure_future(caller.call(endpoint(api.url + "/slow"), {}))
        asked = len(api.asked)
        await wait_until(lambda asked=asked: len(api.asked) > asked, "asked")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    api.go.set()
    assert await caller.call(endpoint(api.url + "/slow"), {}) == {}


# Egress: every spelling of a forbidden address meets the same rule at connect time, and no packet is sent.

SPELLINGS = [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "0.0.0.0",
    "①②⑦.⓪.⓪.①",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[fe80::1]",
]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_spellings_of_addresses(api: HostileApi, host: str) -> None:
    async with HttpCaller(EgressPolicy()) as caller:
        e = await failure(caller, endpoint(f"http://{host}:{api.port}/x", retries=0))
    # some spellings are no host for the HTTP client in the first place
    assert e.kind == ("bad_value" if host in ("2130706433", "0177.0.0.1", "127.1") else "egress")
    assert api.asked == []


class Rebinding(AbstractResolver):
    """Says one address first and another one later, as a hostile name server does."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.1.1"])
async def test_names_that_lead_inside(api: HostileApi, address: str) -> None:
    async with HttpCaller(EgressPolicy(), resolver=Rebinding(address)) as caller:
        assert (await failure(caller, endpoint(f"http://shop.example:{api.port}/x", retries=0))).kind == "egress"
    assert api.asked == []


async def test_a_trusted_name_that_rebinds_to_metadata_is_refused(api: HostileApi) -> None:
    policy = EgressPolicy(trusted_hosts=frozenset({"shop.example"}))
    async with HttpCaller(policy, resolver=Rebinding("127.0.0.1")) as caller:
        assert (await caller.call(endpoint(f"http://shop.example:{api.port}/x"), {}))["ok"] is True
    async with HttpCaller(policy, resolver=Rebinding("169.254.169.254")) as caller:
        assert (await failure(caller, endpoint(f"http://shop.example:{api.port}/x"))).kind == "egress"


async def test_the_allow_list_opens_addresses_and_names(api: HostileApi) -> None:
    for allow in (("127.0.0.0/8",), (f"127.0.0.1:{api.port}",), (f":{api.port}",), ("shop.example",)):
        async with HttpCaller(EgressPolicy(allow=allow), resolver=Rebinding("127.0.0.1")) as caller:
            assert (await caller.call(endpoint(f"http://shop.example:{api.port}/x"), {}))["ok"] is True
    async with HttpCaller(EgressPolicy(allow=("127.0.0.1:1",)), resolver=Rebinding("127.0.0.1")) as caller:
        assert (await failure(caller, endpoint(f"http://shop.example:{api.port}/x"))).kind == "egress"


async def test_admin_configs_reach_public_addresses_only(api: HostileApi) -> None:
    async with HttpCaller(EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"}), public_only=True)) as caller:
        assert (await failure(caller, endpoint(api.url + "/x"))).kind == "egress"
    assert api.asked == []


async def test_proxies_of_the_environment_are_not_used(api: HostileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with HttpCaller(LOCAL) as caller:
        assert (await caller.call(endpoint(api.url + "/x"), {}))["ok"] is True
