"""Requests with an Idempotency-Key that heavy has had are marked for the rule tier, also those that came while the hot store was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from common.contracts.idempotency import REPLIED, Keyed, keyed, write_mark
from common.errors import IdempotencyMismatch
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from heavy.turns import marks as module
from heavy.turns.marks import Marks
from heavy.turns.stores import Stores
from lightweight.idempotency import Idempotency
from tests.support.node import Node
from tests.support.waiting import wait_until


class FlakyStore(MemoryHotStore):
    """A hot store that can be away."""

    away = False

    async def get(self, key: str) -> bytes | None:
        if self.away:
            raise HotStoreUnavailable("away")
        return await super().get(key)

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        if self.away:
            raise HotStoreUnavailable("away")
        await super().set(key, value, ttl)


def known(value: bytes, asked: object = "a") -> Keyed:
    found = keyed(value, "acme", asked, b"s")
    assert found is not None
    return found


async def is_marked(hotstore: FlakyStore, value: bytes) -> bool:
    return await hotstore.get(keys.idempotency("acme", known(value).digest)) is not None


@asynccontextmanager
async def paying(marks: Marks) -> AsyncIterator[None]:
    """While inside, it pays what is owed."""
    task = asyncio.create_task(marks.pay())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def hotstore() -> FlakyStore:
    return FlakyStore()


async def test_a_mark_sends_the_next_request_to_heavy(stores: Stores, hotstore: FlakyStore) -> None:
    await Marks(hotstore, stores.turns).show("acme", known(b"k"))
    kept = await Idempotency(hotstore).begin("acme", known(b"k"), None)
    assert kept is not None
    assert (kept.turn_id, kept.reply, kept.claim) == (known(b"k").ids[0], None, None)
    with pytest.raises(IdempotencyMismatch):
        await Idempotency(hotstore).begin("acme", known(b"k", "b"), None)


async def test_what_could_not_be_marked_is_marked_later(stores: Stores, hotstore: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAY_SECONDS", 0.01)
    monkeypatch.setattr(module, "MOST_OWED", 2)
    marks = Marks(hotstore, stores.turns)
    hotstore.away = True
    for value in (b"k1", b"k2", b"k3"):
        await marks.show("acme", known(value))
    async with paying(marks):
        hotstore.away = False
        await wait_until(partial(is_marked, hotstore, b"k3"), "the last one is marked")
        assert await is_marked(hotstore, b"k2")
        assert not await is_marked(hotstore, b"k1")  # bounded: the oldest went


async def test_what_a_dead_process_owed_is_marked_by_the_others(here: Node, hotstore: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had a request while the hot store was away, and was killed before that was back. What the rule tier has put there stays."""
    monkeypatch.setattr(module, "PAY_SECONDS", 0.01)
    marks = Marks(hotstore, here.stores.turns)
    async with paying(marks):
        await wait_until(lambda: marks._away_since is None, "it has begun")
        hotstore.away = True
        await wait_until(lambda: marks._away_since is not None, "it has seen the absence")
        for value in (b"k1", b"k2"):
            await here.say(known(value).ids[0], keyed=known(value))
            await here.events(known(value).ids[0])
        hotstore.away = False
        replied = write_mark(REPLIED, known(b"k2").fingerprint, known(b"k2").ids[0], b"{}")
        await hotstore.set(keys.idempotency("acme", known(b"k2").digest), replied, 60)
        await wait_until(partial(is_marked, hotstore, b"k1"), "the turn is marked")
        assert await hotstore.get(keys.idempotency("acme", known(b"k2").digest)) == replied
    with pytest.raises(IdempotencyMismatch):
        await Idempotency(hotstore).begin("acme", known(b"k1", "b"), None)


async def test_an_empty_hot_store_is_filled_at_the_start(here: Node, hotstore: FlakyStore) -> None:
    await here.say(known(b"k").ids[0], keyed=known(b"k"))
    await here.events(known(b"k").ids[0])
    await hotstore.delete(keys.idempotency("acme", known(b"k").digest))
    async with paying(Marks(hotstore, here.stores.turns)):
        await wait_until(partial(is_marked, hotstore, b"k"), "the turn is marked")


async def test_a_turn_with_a_key_is_marked_and_another_body_is_not(here: Node, hotstore: FlakyStore) -> None:
    first = known(b"k", "one")
    await here.say(first.ids[0], keyed=first)
    await here.events(first.ids[0])
    with pytest.raises(IdempotencyMismatch):
        await here.say(first.ids[0], "something else", keyed=known(b"k", "two"))
    kept = await Idempotency(hotstore).begin("acme", first, None)
    assert kept is not None
    assert (kept.turn_id, kept.claim) == (first.ids[0], None)
