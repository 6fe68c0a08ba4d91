"""What other replicas say reaches a process also after the hot store was away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from heavy.turns import owner
from tests.support.node import Node
from tests.support.waiting import wait_until


class ForgetfulStore(MemoryHotStore):
    """A hot store that takes no subscription at first."""

    refused = 0

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if self.refused < 4:
            self.refused += 1
            raise HotStoreUnavailable("away")
        return super().subscribe(channel)


@pytest.fixture
def hotstore() -> ForgetfulStore:
    return ForgetfulStore()


async def test_a_cancel_request_is_heard_after_an_outage(
    here: Node, hotstore: ForgetfulStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, "LISTEN_AGAIN_SECONDS", 0.01)
    here.gateway.open.clear()
    turn = await here.talking(await here.say("t_1"))
    listening = asyncio.create_task(here.owner.listen())
    try:

        async def heard() -> bool:
            await hotstore.publish(owner.keys.CANCELS, b"t_1 enough")
            return turn.cancelled == "enough"

        await wait_until(heard, "the request is heard")
        assert not listening.done()
    finally:
        listening.cancel()
        await asyncio.wait([listening])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
