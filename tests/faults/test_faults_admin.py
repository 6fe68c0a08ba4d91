"""The admin pages while stores are away: an operator sees what is left, and is told what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.access import loadsplit
from tests.support.admin import Pages, words
from tests.support.client import Client
from tests.support.running import Running, serve
from tests.support.services import PostgresServer, RedisServer
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.close()


def logged_in(server: Running, env: dict[str, str], folder: Path) -> tuple[Pages, str]:
    key = loadsplit("keys", "create", "--tenant", "acme", "--scopes", "admin,query", env=env, cwd=folder)
    wait_until_sync(lambda: Client(server.url, key).call("GET", "/api/v1/tasks").status == 200, "the key is known", 5)
    pages = Pages(server.url)
    assert pages.log_in(key).status == 303
    return pages, key


@pytest.mark.long
def test_stores_go_away_one_after_the_other(tmp_path: Path, redis: RedisServer, postgres: PostgresServer) -> None:
    stores = {"LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": postgres.create_database()}
    env = {"BUSINESS": "http://127.0.0.1:9", "LOADSPLIT_API_KEYS": "db:", **stores}
    with serve(write_workflow(tmp_path), tmp_path, env) as server:
        pages, key = logged_in(server, env, tmp_path)
        Client(server.url, key).ask("opening hours", "away-1")
        assert "away-1" in words(pages.get("/sessions"))
        assert "flow hours by rule" in words(pages.get("/turns"))

        redis.close()
        for path in ("", "/turns", "/sessions", "/rules", "/costs", "/keys", "/audit", "/desk"):
            assert pages.get(path).status == 200, path
        assert "Hot store away" in words(pages.get())
        refused = Pages(server.url).log_in(key)
        assert refused.status == 429
        assert "nobody can log in while the hot store is away" in words(refused)

        postgres.close()
        told = pages.get("/turns")
        assert told.status == 503
        assert "the database is unavailable" in words(told)
        assert "retry-after" in told.headers
        assert pages.get("/assets/admin.css").status == 200
        assert "Traceback" not in words(told)
