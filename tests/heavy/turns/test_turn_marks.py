"""Requests with an Idempotency-Key that heavy has had are marked for the rule tier, also those that came while the hot store was away."""

from __future__ import annotations

import asyncio

import pytest

from common.contracts.idempotency import Keyed, keyed
from common.errors import IdempotencyMismatch
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from heavy.turns import marks as module
from heavy.turns.marks import Marks
from lightweight.idempotency import Idempotency
from tests.support.node import Node
from tests.support.waiting import wait_until


class FlakyStore(MemoryHotStore):
    """A hot store that can be away."""

    away = False

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        if self.away:
            raise HotStoreUnavailable("away")
        await super().set(key, value, ttl)


def known(value: bytes, asked: object = "a") -> Keyed:
    found = keyed(value, "acme", asked, b"s")
    assert found is not None
    return found


@pytest.fixture
def hotstore() -> FlakyStore:
    return FlakyStore()


async def test_a_mark_sends_the_next_request_to_heavy(hotstore: FlakyStore) -> None:
    await Marks(hotstore).show("acme", known(b"k"))
    kept = await Idempotency(hotstore).begin("acme", known(b"k"), None)
    assert kept is not None
    assert (kept.turn_id, kept.reply, kept.claim) == (known(b"k").ids[0], None, None)
    with pytest.raises(IdempotencyMismatch):
        await Idempotency(hotstore).begin("acme", known(b"k", "b"), None)


async def test_what_could_not_be_marked_is_marked_later(hotstore: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAY_SECONDS", 0.01)
    monkeypatch.setattr(module, "MOST_OWED", 2)
    marks = Marks(hotstore)
    hotstore.away = True
    for value in (b"k1", b"k2", b"k3"):
        await marks.show("acme", known(value))
    paying = asyncio.create_task(marks.pay())
    try:
        hotstore.away = False

        async def marked() -> bool:
            return await hotstore.get(keys.idempotency("acme", known(b"k3").digest)) is not None

        await wait_until(marked, "the last one is marked")
        assert await hotstore.get(keys.idempotency("acme", known(b"k2").digest)) is not None
        assert await hotstore.get(keys.idempotency("acme", known(b"k1").digest)) is None  # bounded: the oldest went
    finally:
        paying.cancel()
        await asyncio.wait([paying])


async def test_a_turn_with_a_key_is_marked_and_another_body_is_not(here: Node, hotstore: FlakyStore) -> None:
    first = known(b"k", "one")
    await here.say(first.ids[0], keyed=first)
    await here.events(first.ids[0])
    with pytest.raises(IdempotencyMismatch):
        await here.say(first.ids[0], "something else", keyed=known(b"k", "two"))
    kept = await Idempotency(hotstore).begin("acme", first, None)
    assert kept is not None
    assert (kept.turn_id, kept.claim) == (first.ids[0], None)
