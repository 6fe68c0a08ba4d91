"""One node that runs tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from common.hotstore.memory import MemoryHotStore
from heavy.jobs.stores import JobStores
from tests.support.job_node import JobNode, job_node


@pytest.fixture
async def here(stores: JobStores, hotstore: MemoryHotStore) -> AsyncIterator[JobNode]:
    async with job_node(stores, hotstore) as one:
        yield one
