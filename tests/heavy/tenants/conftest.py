"""A database, a ring that follows it, and what tells time, for the tests of tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from common.contracts.access import Access
from common.web.auth import KeyRing
from heavy.storage.open import open_stores
from heavy.turns.stores import Stores


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    opened = await open_stores("sqlite:///:memory:")
    yield opened
    await opened.aclose()


def ring_with(**limits: dict[str, float]) -> KeyRing:
    """A ring in which these tenants have these limits."""
    ring = KeyRing()
    ring.use(Access(1, False, (), limits))
    return ring
