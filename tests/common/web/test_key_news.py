"""How a replica hears of keys and limits: by the hot store's snapshot, at its start by this machine's last one, never by a forged one."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.contracts.access import Access, Key, digest_of, encode
from common.errors import DependencyUnavailable, LoadsplitError
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from common.web.key_news import FILE_NAME, KeyNews
from tests.support.services import RedisServer, free_port
from tests.support.waiting import wait_until

SECRET = b"a secret"


def access(revision: int, *texts: str) -> Access:
    held = tuple(Key(text, "acme", frozenset({"query"}), digest_of(text.encode())) for text in texts)
    return Access(revision, True, held)


async def share(store: HotStore, snapshot: Access, secret: bytes = SECRET) -> None:
    """What heavy does, without telling anyone."""
    await store.write_version(keys.ACCESS, snapshot.revision, encode(snapshot, secret), 60)


def knows(ring: KeyRing, text: str) -> bool:
    try:
        return ring.authenticate([(b"authorization", f"Bearer {text}".encode())]).tenant == "acme"
    except LoadsplitError:
        return False


@asynccontextmanager
async def following(ring: KeyRing, store: HotStore, folder: Path) -> AsyncIterator[KeyNews]:
    news = KeyNews(ring, store, SECRET, folder, Metrics())
    await news.begin()
    task = asyncio.create_task(news.follow())
    try:
        yield news
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    opened = open_hotstore("memory://" if request.param == "memory" else request.getfixturevalue("redis_database"))
    yield opened
    await opened.aclose()


async def test_what_is_there_is_known_from_the_start(store: HotStore, tmp_path: Path) -> None:
    await share(store, access(5, "one"))
    ring = KeyRing.open("db:")
    await KeyNews(ring, store, SECRET, tmp_path, Metrics()).begin()
    assert knows(ring, "one")
    assert not knows(ring, "two")


async def test_changes_are_followed_by_looking_and_at_once_when_told(store: HotStore, tmp_path: Path) -> None:
    ring = KeyRing.open("db:")
    async with following(ring, store, tmp_path):
        await share(store, access(5, "one"))
        await wait_until(lambda: knows(ring, "one"), "the first snapshot is taken", 2)
        await share(store, access(6, "two"))
        await wait_until(lambda: not knows(ring, "one") and knows(ring, "two"), "the second snapshot is taken", 2)
        await share(store, access(7, "three"))
        await store.publish(keys.ACCESS_NEWS, b"7")
        await wait_until(lambda: knows(ring, "three"), "the third is taken", 0.45)  # before it would look by itself


async def test_a_wiped_hot_store_takes_nothing_away(store: HotStore, tmp_path: Path) -> None:
    await share(store, access(5, "one"))
    ring = KeyRing.open("db:")
    async with following(ring, store, tmp_path) as news:
        await store.delete(keys.ACCESS)
        await news._look()
        assert knows(ring, "one")
        await share(store, access(4, "four"))  # of a database that was put back
        await wait_until(lambda: knows(ring, "four"), "what is there now is taken", 2)


async def test_a_snapshot_that_is_not_signed_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, ring = MemoryHotStore(), KeyRing.open("db:")
    await share(store, access(5, "one"))
    news = KeyNews(ring, store, SECRET, tmp_path, Metrics())
    await news.begin()
    await share(store, access(6, "forged"), b"a guess")
    for _ in range(3):
        await news._look()
    assert knows(ring, "one")
    assert not knows(ring, "forged")
    assert len([r for r in caplog.records if "not signed" in r.message]) == 1
    await share(store, access(7, "real"))
    await news._look()
    assert knows(ring, "real")


async def test_the_last_snapshot_is_kept_on_this_machine(tmp_path: Path) -> None:
    store = MemoryHotStore()
    await share(store, access(5, "one"))
    await KeyNews(KeyRing.open("db:"), store, SECRET, tmp_path / "data", Metrics()).begin()
    path = tmp_path / "data" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME]

    away = open_hotstore(f"redis://127.0.0.1:{free_port()}/0")
    try:
        ring = KeyRing.open("db:")
        await KeyNews(ring, away, SECRET, tmp_path / "data", Metrics()).begin()
        assert knows(ring, "one")
        other = KeyRing.open("db:")
        await KeyNews(other, away, b"another secret", tmp_path / "data", Metrics()).begin()
        assert not knows(other, "one")
        with pytest.raises(DependencyUnavailable, match="cannot be read now"):
            await other.check()
    finally:
        await away.aclose()


async def test_without_a_place_to_write_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store, ring = MemoryHotStore(), KeyRing.open("db:")
    await share(store, access(5, "one"))
    await KeyNews(ring, store, SECRET, tmp_path / "file" / "below", Metrics()).begin()
    assert knows(ring, "one")
    assert "not kept" in caplog.text


async def test_a_redis_that_comes_later_is_followed(tmp_path: Path) -> None:
    server = RedisServer()
    store, ring = open_hotstore(server.url), KeyRing.open("db:")
    try:
        async with following(ring, store, tmp_path):
            with pytest.raises(DependencyUnavailable, match="cannot be read now"):
                await ring.check()
            server.start()
            other = open_hotstore(server.url)
            await wait_until(lambda: _shared(other), "Redis takes the snapshot", 5)
            await other.aclose()
            await wait_until(lambda: knows(ring, "one"), "it is followed", 5)
    finally:
        await store.aclose()
        server.close()


async def _shared(store: HotStore) -> bool:
    try:
        await share(store, access(5, "one"))
    except HotStoreUnavailable:
        return False
    return True
