"""Stores that several nodes of one test share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.jobs.stores import JobStores
from heavy.storage.open import open_stores


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[JobStores]:
    opened = await open_stores(f"sqlite:///{tmp_path}/test.db")
    yield opened
    await opened.aclose()


@pytest.fixture
def hotstore() -> MemoryHotStore:
    return MemoryHotStore()
