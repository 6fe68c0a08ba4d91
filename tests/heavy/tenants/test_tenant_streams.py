"""Open streams of a tenant over all replicas: refused at the limit, given back at the end, of a dead process after a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from common.contracts.access import Access, Key, digest_of
from common.errors import RateLimited
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from heavy.tenants.streams import OpenStreams
from tests.heavy.tenants.conftest import ring_with
from tests.support.services import RedisServer, free_port
from tests.support.waiting import wait_until

LIMITED = {"open_streams": 2}


@pytest.fixture(params=["memory", "redis"])
async def hotstore(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    opened = open_hotstore("memory://" if request.param == "memory" else request.getfixturevalue("redis_database"))
    yield opened
    await opened.aclose()


async def refused(streams: OpenStreams, tenant: str = "acme") -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        async with streams.one(tenant):
            pass
    return caught.value


async def test_the_limit_holds_over_replicas_and_for_its_tenant_only(hotstore: HotStore) -> None:
    ring, metrics = ring_with(acme=LIMITED), Metrics()
    one, two = OpenStreams(hotstore, ring, metrics), OpenStreams(hotstore, ring, metrics)
    async with one.one("acme"), two.one("acme"):
        error = await refused(one)
        assert (error.extra["limit"], error.extra["value"], error.extra["used"], error.retry_after) == ("open_streams", 2, 2, 5)
        await refused(two)
        async with one.one("other"), one.one("other"), one.one("other"):
            pass
    async with two.one("acme"), two.one("acme"):
        await refused(one)
    assert metrics.registry.get_sample_value("loadsplit_quota_refusals_total", {"limit": "open_streams"}) == 3


async def test_a_stream_that_breaks_is_given_back(hotstore: HotStore) -> None:
    streams = OpenStreams(hotstore, ring_with(acme={"open_streams": 1}), Metrics())
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with streams.one("acme"):
                _ = 1 / 0
        with pytest.raises(TimeoutError):
            async with streams.one("acme"):
                raise TimeoutError
    waiting = asyncio.create_task(hold(streams))
    await wait_until(lambda: bool(streams._open), "it is open")
    waiting.cancel()
    await asyncio.wait([waiting])
    async with streams.one("acme"):
        pass


async def hold(streams: OpenStreams) -> None:
    async with streams.one("acme"):
        await asyncio.Event().wait()


async def test_what_is_kept_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heavy.tenants.streams.STAY_SECONDS", 0.05)
    monkeypatch.setattr("heavy.tenants.streams.LOOK_SECONDS", 0.02)
    monkeypatch.setattr(keys, "STREAMS_TTL", 0.5)
    hotstore, ring = MemoryHotStore(), ring_with(acme=LIMITED)
    alive, dead = OpenStreams(hotstore, ring, Metrics()), OpenStreams(hotstore, ring, Metrics())
    keeping = asyncio.create_task(alive.keep())
    async with alive.one("acme"), dead.one("acme"):
        await refused(alive)

        async def given() -> bool:
            with contextlib.suppress(RateLimited):
                async with alive.one("acme"):
                    return True
            return False

        await wait_until(given, "the dead process's place is given away", 5)
        async with alive.one("acme"):
            await refused(alive)  # its own is not
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_without_the_hot_store_a_process_counts_its_own() -> None:
    away = open_hotstore(f"redis://127.0.0.1:{free_port()}/0")
    streams = OpenStreams(away, ring_with(acme=LIMITED), Metrics())
    async with streams.one("acme"):
        async with streams.one("acme"):
            await refused(streams)
        async with streams.one("acme"):
            await refused(streams)
    await away.aclose()


async def test_streams_are_known_again_to_a_redis_that_was_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heavy.tenants.streams.STAY_SECONDS", 0.05)
    monkeypatch.setattr("heavy.tenants.streams.LOOK_SECONDS", 0.02)
    server = RedisServer()
    server.start()
    hotstore, ring = open_hotstore(server.url), ring_with(acme=LIMITED)
    streams, other = OpenStreams(hotstore, ring, Metrics()), OpenStreams(hotstore, ring, Metrics())
    keeping = asyncio.create_task(streams.keep())
    try:
        async with streams.one("acme"), streams.one("acme"):
            await hotstore.delete(keys.streams("acme"))

            async def full() -> bool:
                with contextlib.suppress(RateLimited):
                    async with other.one("acme"):
                        return False
                return True

            await wait_until(full, "they are known again", 5)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await hotstore.aclose()
        server.close()


async def test_a_stream_ends_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heavy.tenants.streams.LOOK_SECONDS", 0.02)
    held = [Key(text, "acme", frozenset({"query"}), digest_of(text.encode())) for text in ("one", "two")]
    ring = KeyRing()
    ring.use(Access(1, True, tuple(held)))
    streams = OpenStreams(MemoryHotStore(), ring, Metrics())
    keeping = asyncio.create_task(streams.keep())
    ends: dict[str, bool] = {}

    async def follow(name: str, headers: list[tuple[bytes, bytes]] | None) -> None:
        async with streams.one("acme", headers) as stream:
            await asyncio.Event().wait()
        ends[name] = stream.revoked

    tasks = [
        asyncio.create_task(follow(text, [(b"authorization", b"Bearer " + text.encode())] if text != "ticket" else None))
        for text in ("one", "two", "ticket")
    ]
    await wait_until(lambda: len(streams._open.get("acme", ())) == 3, "all are open")
    ring.use(Access(2, True, (held[1],)))
    await wait_until(lambda: "one" in ends, "the revoked one is ended", 2)
    assert ends == {"one": True}
    for task in (keeping, *tasks):
        task.cancel()
    await asyncio.wait([keeping, *tasks])
