"""Fixtures for all tests: a clean environment, private Redis and PostgreSQL servers, and the leak checks that are always on."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.redis_client import redis_command
from tests.support.services import PostgresServer, RedisServer

FOREIGN = ("LOADSPLIT_", "OPENAI_", "ANTHROPIC_", "OTEL_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# The journal is a queue: what is in it goes when it is acknowledged, not with time.
KEYS_WITHOUT_TTL = {b"ls:journal"}


def pytest_configure() -> None:
    """A run that is told to end (SIGTERM, as from `timeout`) ends like one that is interrupted: its servers are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each async test is watched for tasks that it leaves running."""
    for item in items:
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.usefixtures("no_task_left"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, key or proxy of the developer's shell reaches a test or a process that it starts."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name.upper() in PROXIES:
            monkeypatch.delenv(name)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails a test after which a task is still running (tasks about to end get a moment to do so)."""
    before = asyncio.all_tasks()
    yield
    for _ in range(20):
        left = {t for t in asyncio.all_tasks() - before if t is not asyncio.current_task() and not t.done()}
        if not left:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"tasks left running: {left}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server for the whole run. A test that stops or freezes a server starts its own RedisServer."""
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """redis:// URL of the shared server, database 0: what is there stays for the whole run, so use own session ids."""
    return redis_server.url


@pytest.fixture(scope="session")
def _redis_numbers() -> Iterator[int]:
    return itertools.cycle(range(1, 12))  # 12 to 15 belong to session-wide splits


@pytest.fixture
def redis_database(redis_server: RedisServer, _redis_numbers: Iterator[int]) -> str:
    """redis:// URL of a database that is empty at the start of the test."""
    number = next(_redis_numbers)
    redis_command(redis_server.port, "FLUSHDB", database=number)
    return f"redis://127.0.0.1:{redis_server.port}/{number}"


@pytest.fixture(autouse=True)
def no_key_without_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that used the shared Redis: all keys but the journal have a time to live."""
    used = {"redis_server", "redis_url", "redis_database"} & set(request.fixturenames)
    if not used:
        yield
        return
    port = request.getfixturevalue("redis_server").port
    url = request.getfixturevalue("redis_database") if "redis_database" in used else "/0"
    number = int(url.rpartition("/")[2])
    yield
    keys = [k for k in redis_command(port, "KEYS", "*", database=number) if k not in KEYS_WITHOUT_TTL]
    for_ever = [k for k in keys if redis_command(port, "TTL", k, database=number) == -1]
    assert not for_ever, f"Redis keys without a time to live: {for_ever[:5]}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL cluster for the whole run. A test that stops a server starts its own PostgresServer."""
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """postgresql:// URL of one database for the whole run."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def _postgres_emptied(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer, _postgres_emptied: str) -> str:
    """postgresql:// URL of a database that is empty at the start of the test."""
    postgres_server.empty_database(_postgres_emptied)
    return _postgres_emptied
