"""The Redis hot store when Redis is away, frozen, wiped or refuses: one short delay, then fail fast, then back by itself."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool

from common.hotstore import keys
from common.hotstore.coalesce import CoalescingRedis
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.hotstore.redis import open_client
from tests.support.redis_client import redis_command
from tests.support.services import RedisServer, free_port
from tests.support.waiting import wait_until

GATE, PENDING = keys.gate("t", "s1"), keys.pending("t", "s1")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    own.start()
    yield own
    own.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[HotStore]:
    opened = open_hotstore(server.url)
    yield opened
    await opened.aclose()


async def answers(store: HotStore) -> bool:
    try:
        await store.ping()
    except HotStoreUnavailable:
        return False
    return True


def redis_info(server: RedisServer, section: str) -> list[bytes]:
    """The lines of one section of INFO."""
    return [line for line in redis_command(server.port, "INFO", section).splitlines() if b"=" in line]


async def test_a_frozen_redis_costs_one_delay_and_then_nothing(server: RedisServer, store: HotStore) -> None:
    await store.set("k", b"v", 60)
    server.freeze()
    start = time.perf_counter()
    results = await asyncio.gather(*(store.get("k") for _ in range(20)), return_exceptions=True)
    waited = time.perf_counter() - start
    assert all(isinstance(r, HotStoreUnavailable) for r in results)
    assert 0.25 < waited < 0.5
    start = time.perf_counter()
    for _ in range(100):
        with pytest.raises(HotStoreUnavailable):
            await store.get("k")
    assert time.perf_counter() - start < 0.2
    server.thaw()
    await wait_until(lambda: answers(store), "Redis is used again", 3)
    assert await store.get("k") == b"v"


async def test_a_timed_out_record_that_was_applied_is_not_recorded_again(server: RedisServer, store: HotStore) -> None:
    await store.ping()
    server.freeze()
    with pytest.raises(HotStoreUnavailable):
        await store.record(GATE, PENDING, "t_1", b"entry", b"r")
    server.thaw()
    await wait_until(lambda: answers(store), "Redis is used again", 3)
    await store.record(GATE, PENDING, "t_1", b"entry", b"r")
    assert await store.journal_size() == 1


async def test_no_redis_at_all_fails_fast_and_is_found_when_it_comes() -> None:
    port = free_port()
    store = open_hotstore(f"redis://127.0.0.1:{port}")
    with pytest.raises(HotStoreUnavailable):
        await store.get("k")
    server = RedisServer(port)
    server.start()
    try:
        await wait_until(lambda: answers(store), "Redis is found", 3)
    finally:
        await store.aclose()
        server.close()


async def test_a_restarted_redis_is_invisible_to_repeatable_commands(server: RedisServer, store: HotStore) -> None:
    await store.set("k", b"v", 60)
    await store.record(GATE, PENDING, "t_0", b"entry", b"r")
    server.kill()
    server.start()
    assert await store.get("k") is None
    assert await store.record(GATE, PENDING, "t_1", b"entry", b"r") == (True, None)
    assert [i.entry for i in await store.journal_read("a", 10)] == [b"entry"]


async def test_commands_in_flight_when_the_connection_breaks_are_sent_once_more(server: RedisServer, store: HotStore) -> None:
    await store.set("k", b"v", 60)
    calls = [asyncio.ensure_future(store.get("k")) for _ in range(50)]
    await asyncio.sleep(0)
    redis_command(server.port, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await asyncio.gather(*calls) == [b"v"] * 50


class ClosedUnderway(Connection):
    """A connection whose first write after the handshake finds the transport closed, in uvloop's words."""

    broken = 0

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if b"SET" in command and not ClosedUnderway.broken:
            ClosedUnderway.broken += 1
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        await super().send_packed_command(command, check_health)


async def test_a_transport_that_closes_under_a_write_is_a_broken_connection(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    pool = ConnectionPool.from_url(server.url, protocol=2, connection_class=ClosedUnderway)
    client = CoalescingRedis(pool)
    try:
        assert await client.set("k", b"v")
        assert ClosedUnderway.broken == 1
        assert redis_command(server.port, "GET", "k") == b"v"
    finally:
        await client.aclose()
    assert caplog.records == []


async def test_flushed_scripts_are_loaded_again(server: RedisServer, store: HotStore) -> None:
    await store.ping()
    redis_command(server.port, "SCRIPT", "FLUSH")
    assert await store.record(GATE, PENDING, "t_1", b"entry", b"r") == (True, None)
    assert await store.log_append(keys.events("t_1"), 0, [b"a"], 60)


async def test_a_script_travels_once_and_then_only_its_digest(server: RedisServer, store: HotStore) -> None:
    for i in range(3):
        assert await store.record(GATE, PENDING, f"t_{i}", b"entry", b"r") == (True, None)
    calls = {line.split(b":")[0]: line.split(b"calls=")[1].split(b",")[0] for line in redis_info(server, "commandstats")}
    assert (calls[b"cmdstat_evalsha"], calls[b"cmdstat_eval"]) == (b"3", b"1")
    assert await store.journal_size() == 3


async def test_entries_of_a_dead_consumer_come_back_and_deleted_ones_do_not(server: RedisServer, store: HotStore) -> None:
    for i in range(3):
        await store.record(GATE, PENDING, f"t_{i}", str(i).encode(), b"r")
    taken = await store.journal_read("dead", 10)
    # XCLAIM with IDLE makes them look untouched for a minute: the test needs no clock.
    redis_command(server.port, "XCLAIM", keys.JOURNAL, keys.JOURNAL_GROUP, "dead", 0, *[i.id for i in taken], "IDLE", 60000)
    redis_command(server.port, "XDEL", keys.JOURNAL, taken[0].id)
    assert [i.entry for i in await store.journal_read("alive", 10)] == [b"1", b"2"]


async def test_a_command_that_redis_refuses_fails_alone(server: RedisServer, store: HotStore) -> None:
    await store.set("string", b"v", 60)
    refused, fine = await asyncio.gather(store.log_read("string", 0), store.get("string"), return_exceptions=True)
    assert isinstance(refused, HotStoreUnavailable)
    assert "WRONGTYPE" not in refused.detail
    assert fine == b"v"


async def test_subscriptions_survive_a_broken_connection(server: RedisServer, store: HotStore) -> None:
    async with store.subscribe("c") as messages:
        redis_command(server.port, "CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: redis_command(server.port, "PUBSUB", "NUMSUB", "c")[1] == 1, "the channel is subscribed again", 3)
        await store.publish("c", b"still here")
        assert await asyncio.wait_for(anext(messages), 2) == b"still here"


async def test_subscribing_while_redis_is_away_fails_within_the_time_limit(server: RedisServer, store: HotStore) -> None:
    server.kill()
    start = time.perf_counter()
    with pytest.raises(HotStoreUnavailable):
        async with store.subscribe("c"):
            pass
    assert time.perf_counter() - start < 0.6


async def test_a_password_is_sent_and_a_wrong_one_is_an_outage(server: RedisServer) -> None:
    redis_command(server.port, "CONFIG", "SET", "requirepass", "p@ss")
    right = open_hotstore(f"redis://:p%40ss@127.0.0.1:{server.port}/3")
    wrong = open_hotstore(f"redis://:nope@127.0.0.1:{server.port}/3")
    try:
        assert await right.ping() < 0.3
        with pytest.raises(HotStoreUnavailable):
            await wrong.ping()
    finally:
        await right.aclose()
        await wrong.aclose()


async def test_after_close_nothing_is_sent(store: HotStore) -> None:
    await store.ping()
    await store.aclose()
    with pytest.raises(HotStoreUnavailable):
        await store.get("k")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://x", "begins with"),
        ("redis://h:99999", "port"),
        ("redis://h/one", "number"),
        ("redis://:secret@h?decode=1", "unknown option"),
        ("unix://", "socket"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "not a file"),
        ("redis://h?ssl_cert_reqs=none", "unknown option"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_without_the_password(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as e:
        open_hotstore(url)
    assert "secret" not in str(e.value)


def test_a_connection_has_all_parts_of_its_url() -> None:
    pool = open_client("redis://me:p%2F@cache.example:7000/2").connection_pool
    connection: Any = pool.make_connection()
    assert (connection.host, connection.port, connection.db) == ("cache.example", 7000, 2)
    assert (connection.username, connection.password) == ("me", "p/")
    assert "p/" not in repr(pool) + repr(connection)
    socket: Any = open_client("unix:///run/r.sock?db=1").connection_pool.make_connection()
    assert (socket.path, socket.db) == ("/run/r.sock", 1)
    tls: Any = open_client("rediss://h?ssl_cert_reqs=none").connection_pool.make_connection()
    assert (tls.cert_reqs, tls.check_hostname) == (ssl.CERT_NONE, False)
