"""Every store fixture here exists for each database: a test that uses one runs over SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from heavy.storage.open import open_stores
from heavy.turns.stores import Stores


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/loadsplit.db"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    """Migrated stores."""
    opened = await open_stores(database_url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def other_stores(database_url: str, stores: Stores) -> AsyncIterator[Stores]:
    """A second replica on the same database."""
    opened = await open_stores(database_url)
    yield opened
    await opened.aclose()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    """A hot store of each kind."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_database")
    opened = open_hotstore(url)
    yield opened
    await opened.aclose()
