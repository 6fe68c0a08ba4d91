"""An API key from its making to its end, on two replicas of both tiers: each knows within two seconds, whatever is away or starts again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.web.auth import hash_key
from tests.support.access import KNOWN_SECONDS, Keyed, keyed, loadsplit
from tests.support.redis_client import redis_command
from tests.support.running import LOADSPLIT, Running, serve
from tests.support.services import PostgresServer, RedisServer, free_port
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync

KNOWN, REFUSED = [200, 200, 404, 404], [401] * 4


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def replicas(env: dict[str, str], redis: RedisServer, postgres_server: PostgresServer, folder: Path) -> Iterator[Keyed]:
    place = folder / "keys"
    place.mkdir(exist_ok=True)
    stores = {"LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": postgres_server.create_database()}
    with keyed(write_workflow(place), place, {**env, **stores}) as running:
        yield running


@pytest.fixture
def doors(replicas: Keyed, redis: RedisServer) -> Iterator[Keyed]:
    """The replicas. Every test leaves them whole, also one that fails after it has stopped something."""
    yield replicas
    if redis.process is None:
        redis.start()
    for process in replicas.processes:
        if process.process.poll() is not None:
            process.start()


def key_id(key: str) -> str:
    return key.split("_")[1]


def test_created_used_and_revoked(doors: Keyed) -> None:
    assert doors.statuses(None) == doors.statuses("ls_0123456789ab_guessed") == REFUSED
    key = doors.key(name="the shop")
    assert doors.statuses(key) == KNOWN
    mine = doors.client.with_key(key)
    assert mine.ask("tell me something", "life-1").json["message"] == "Plain words."
    assert [e.type for e in mine.stream("tell me something", "life-1")][-1] == "complete"
    assert mine.call("GET", "/api/v1/session/life-1").json["message_count"] == 4
    admin = doors.heavy[0].client.with_key(key).call("GET", "/admin/api/keys")
    assert (admin.status, admin.json["code"]) == (403, "forbidden")

    doors.command("keys", "revoke", key_id(key))
    wait_until_sync(lambda: doors.statuses(key) == REFUSED, "every replica refuses it", KNOWN_SECONDS)
    wholly = "".join(p.log() for p in doors.processes)
    assert key not in wholly
    assert key[-20:] not in wholly


def test_revoked_over_http(doors: Keyed) -> None:
    admin, key = doors.key(scopes="admin"), doors.key()
    gone = doors.heavy[0].client.with_key(admin).call("DELETE", f"/admin/api/keys/{key_id(key)}")
    assert (gone.status, gone.json["state"]) == (200, "revoked")
    assert doors.statuses(key, [doors.heavy[0]]) == [401]  # who has revoked it knows at once
    wait_until_sync(lambda: doors.statuses(key) == REFUSED, "every replica refuses it", KNOWN_SECONDS)


def test_expired(doors: Keyed) -> None:
    until = time.time() + 4
    key = doors.key(expires=datetime.fromtimestamp(until, UTC).isoformat())
    assert doors.statuses(key) == KNOWN
    wait_until_sync(lambda: doors.statuses(key) == REFUSED, "it expires everywhere", 6)
    assert time.time() >= until
    assert "expired" in doors.client.with_key(key).ask("opening hours", "life-2").json["detail"]


def test_after_a_restart_of_everything(doors: Keyed) -> None:
    key, other = doors.key(), doors.key()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Running.stop, doors.processes))
        doors.command("keys", "revoke", key_id(other))
        list(pool.map(Running.start, doors.processes))
    assert doors.statuses(key) == KNOWN  # as soon as they are ready
    wait_until_sync(lambda: doors.statuses(other) == REFUSED, "what was revoked meanwhile is refused", KNOWN_SECONDS)


def test_with_redis_away(doors: Keyed, redis: RedisServer) -> None:
    """A process keeps what it knows, and one that starts has what was seen last on its machine; where that is nothing, it says 503."""
    key = doors.key()
    redis.stop()
    assert doors.statuses(key) == KNOWN
    first, second = doors.lightweight
    with ThreadPoolExecutor() as pool:
        list(pool.map(Running.stop, (first, second)))
        shutil.rmtree(second.folder / "elsewhere")
        list(pool.map(Running.start, (first, second)))
    assert doors.statuses(key, [first]) == [200]
    unknown = second.client.with_key(key).ask("opening hours", "life-3")
    assert (unknown.status, unknown.json["code"], unknown.headers["retry-after"]) == (503, "dependency_unavailable", "1")
    assert second.client.call("GET", "/api/v1/health").json["checks"]["keys"]["ok"] is False
    doors.command("keys", "revoke", key_id(key))
    wait_until_sync(lambda: doors.statuses(key, doors.heavy) == [401, 401], "heavy refuses it", KNOWN_SECONDS)
    redis.start()
    wait_until_sync(lambda: doors.statuses(key) == REFUSED, "the rule tier hears of it", 5)


def test_a_wiped_redis_is_filled_again(doors: Keyed, redis: RedisServer) -> None:
    key = doors.key()
    redis_command(redis.port, "FLUSHALL")
    assert doors.statuses(key) == KNOWN
    wait_until_sync(lambda: redis_command(redis.port, "EXISTS", "ls:access"), "the snapshot is back", KNOWN_SECONDS)
    assert 0 < redis_command(redis.port, "TTL", "ls:access") <= 60
    shutil.rmtree(doors.lightweight[1].folder / "elsewhere")
    doors.lightweight[1].stop()
    doors.lightweight[1].start()
    assert doors.statuses(key) == KNOWN


@pytest.fixture
def alone(env: dict[str, str], tmp_path: Path) -> Iterator[Running]:
    """The single process without any setting of keys."""
    with serve(write_workflow(tmp_path), tmp_path, env) as running:
        yield running


def test_asked_for_and_not_made_yet(env: dict[str, str], tmp_path: Path) -> None:
    """`db:` and no key in the database: everybody is refused until there is one, on a public address too."""
    port = free_port()
    command = ["serve", "--config", str(write_workflow(tmp_path)), "--port", str(port), "--host", "0.0.0.0"]
    with Running(command, tmp_path, port=port, env={**env, "LOADSPLIT_API_KEYS": "db:"}) as running:
        for key in (None, "ls_0123456789ab_guessed"):
            refused = running.client.with_key(key).ask("opening hours", "db-1")
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        key = loadsplit("keys", "create", env={"LOADSPLIT_DATA_DIR": str(tmp_path / "data")}, cwd=tmp_path)
        mine = running.client.with_key(key)
        wait_until_sync(lambda: mine.ask("opening hours", "db-1").status == 200, "the key is known", KNOWN_SECONDS)
        for place, said in (({"LOADSPLIT_CHAT_KEY": key}, "We open at 9."), ({}, "an API key is needed")):
            command = [LOADSPLIT, "chat", "--url", running.url]
            done = subprocess.run(
                command, env={**os.environ, **place}, cwd=tmp_path, input="opening hours\n", capture_output=True, text=True, timeout=30
            )
            assert said in done.stdout


def test_the_single_process_asks_for_a_key_once_there_is_one(alone: Running, tmp_path: Path) -> None:
    assert alone.client.ask("tell me something", "alone-1").status == 200
    place = {"LOADSPLIT_DATA_DIR": str(tmp_path / "data")}
    key = loadsplit("keys", "create", env=place, cwd=tmp_path)
    wait_until_sync(lambda: alone.client.ask("opening hours", "alone-2").status == 401, "a key is asked for", KNOWN_SECONDS)
    mine = alone.client.with_key(key)
    assert mine.ask("tell me something", "alone-1").json["message"] == "Plain words."
    assert mine.call("GET", "/api/v1/session/alone-1").json["message_count"] == 4  # of the tenant default, as before
    loadsplit("keys", "revoke", key_id(key), env=place, cwd=tmp_path)
    wait_until_sync(lambda: mine.ask("opening hours", "alone-2").status == 401, "it is refused", KNOWN_SECONDS)


def test_a_file_of_keys_is_read_again(env: dict[str, str], tmp_path: Path) -> None:
    """Another file in its place is in force; one that does not hold is told in the log, and the former one stays."""
    path = tmp_path / "keys.json"

    def write(*names: str) -> None:
        rows = [{"id": name, "tenant": "acme", "scopes": ["query"], "hash": hash_key(name)} for name in names]
        draft = tmp_path / "draft"
        draft.write_text(json.dumps(rows))
        os.replace(draft, path)

    write("one", "two")
    with serve(write_workflow(tmp_path), tmp_path, {**env, "LOADSPLIT_API_KEYS": str(path)}) as running:

        def lets_in(name: str) -> bool:
            return running.client.with_key(name).ask("opening hours", "file-1").status == 200

        assert (lets_in("one"), lets_in("two"), lets_in("three")) == (True, True, False)
        write("two", "three")
        wait_until_sync(lambda: not lets_in("one") and lets_in("three"), "the new file is in force", KNOWN_SECONDS)
        path.write_text('[{"id": "four"')
        wait_until_sync(lambda: "the API keys stay as they are" in running.log(), "the broken file is told", KNOWN_SECONDS)
        assert (lets_in("two"), lets_in("three")) == (True, True)
        write("four")
        wait_until_sync(lambda: lets_in("four") and not lets_in("two"), "the mended file is in force", KNOWN_SECONDS)
        stored = loadsplit("keys", "create", env={"LOADSPLIT_DATA_DIR": str(tmp_path / "data")}, cwd=tmp_path)
        wait_until_sync(lambda: lets_in(stored) and lets_in("four"), "both kinds are in force", KNOWN_SECONDS)
