"""A reader of a turn that another process runs, or has run, takes what is there at once and waits only for what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.contracts.events import Event, payload
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from heavy import streaming
from heavy.storage.open import open_stores
from heavy.streaming import LOG_PAGE, TurnReader
from heavy.turns.owner import TurnOwner
from heavy.turns.stores import Stores
from tests.support.turns import accept, answer, fence_of


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    opened = await open_stores(f"sqlite:///{tmp_path}/turns.db")
    yield opened
    await opened.aclose()


async def test_a_long_log_is_read_without_a_pause(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "POLL_SECONDS", (60.0,))
    hotstore = MemoryHotStore()
    lines = [payload(Event("text", {"delta": str(n)})) for n in range(3 * LOG_PAGE)]
    await hotstore.log_append(keys.events("t_1"), 0, [*lines, payload(Event("complete", {}))], 60)
    accepted = await accept(stores, "t_1")
    await stores.turns.finish(fence_of(accepted.turn), answer())
    reader = TurnReader(stores.turns, hotstore, TurnOwner(stores.turns, hotstore))
    row = await reader.open("acme", "t_1")
    async with asyncio.timeout(5):
        found = [number async for number, _ in reader.follow(row, 0)]
    assert found == list(range(1, 3 * LOG_PAGE + 2))
