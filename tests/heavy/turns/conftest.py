"""Stores that several nodes of one test share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.storage.open import open_stores
from heavy.turns.stores import Stores
from tests.support.node import Node, node


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    opened = await open_stores(f"sqlite:///{tmp_path}/turns.db")
    yield opened
    await opened.aclose()


@pytest.fixture
def hotstore() -> MemoryHotStore:
    return MemoryHotStore()


@pytest.fixture
async def here(stores: Stores, hotstore: MemoryHotStore) -> AsyncIterator[Node]:
    async with node(stores, hotstore) as one:
        yield one
