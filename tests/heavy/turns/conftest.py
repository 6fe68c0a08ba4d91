"""One node that runs turns."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.turns.stores import Stores
from tests.support.node import Node, node


@pytest.fixture
async def here(stores: Stores, hotstore: MemoryHotStore) -> AsyncIterator[Node]:
    async with node(stores, hotstore) as one:
        yield one
