"""The keeper brings keys from the database to this process and to the hot store, and back into one that was wiped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.contracts.access import decode
from common.errors import DependencyUnavailable, LoadsplitError
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.web.auth import KeyRing
from heavy.tenants.keeper import AccessKeeper
from heavy.tenants.keys import create_key, state_of
from heavy.turns.stores import Stores
from tests.support.services import free_port
from tests.support.waiting import wait_until

SECRET = b"a secret"


@asynccontextmanager
async def keeping(stores: Stores, hotstore: HotStore, ring: KeyRing) -> AsyncIterator[AccessKeeper]:
    keeper = AccessKeeper(stores.access, hotstore, ring, SECRET, Metrics())
    await keeper.look()
    task = asyncio.create_task(keeper.keep())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.wait([task])


def knows(ring: KeyRing, text: str) -> bool:
    try:
        return bool(ring.authenticate([(b"authorization", f"Bearer {text}".encode())]).key_id)
    except LoadsplitError:
        return False


async def shared(hotstore: HotStore) -> set[str] | None:
    """The ids of the keys that the hot store has."""
    found = await hotstore.read_version(keys.ACCESS, None)
    access = decode(found[1], SECRET) if found and found[1] else None
    return {key.key_id for key in access.keys} if access else None


async def test_changes_reach_ring_and_hot_store(stores: Stores) -> None:
    ring, hotstore = KeyRing.open(None), MemoryHotStore()
    async with keeping(stores, hotstore, ring):
        assert ring.empty
        assert await shared(hotstore) == set()
        text, row = await create_key(stores.access, tenant="acme", scopes=["query"])
        await wait_until(lambda: knows(ring, text), "the key is known", 1.9)
        assert not ring.empty
        assert await shared(hotstore) == {row.key_id}
        await stores.access.set_limits("acme", {"open_streams": 3})
        await wait_until(lambda: ring.limits_of("acme").open_streams == 3, "the limit is known", 1.9)
        await stores.access.revoke(None, row.key_id)
        await wait_until(lambda: not knows(ring, text), "the key is revoked", 1.9)
        assert await shared(hotstore) == set()
        assert not ring.empty


async def test_another_process_is_told_at_once(stores: Stores) -> None:
    hotstore, ring, other = MemoryHotStore(), KeyRing.open(None), KeyRing.open(None)
    async with keeping(stores, hotstore, ring) as keeper, keeping(stores, hotstore, other):
        text, _ = await create_key(stores.access, tenant="acme", scopes=["query"])
        await keeper.look()
        assert knows(ring, text)
        await wait_until(lambda: knows(other, text), "the other one knows", 0.5)


async def test_a_wiped_hot_store_is_filled_again(stores: Stores) -> None:
    hotstore = MemoryHotStore()
    _, row = await create_key(stores.access, tenant="acme", scopes=["query"])
    async with keeping(stores, hotstore, KeyRing.open(None)):
        await hotstore.delete(keys.ACCESS)

        async def filled() -> bool:
            return await shared(hotstore) == {row.key_id}

        await wait_until(filled, "the snapshot is back", 2)


async def test_a_keeper_that_was_held_up_undoes_nothing(stores: Stores) -> None:
    """It has read, then stands still while a key is revoked and others say so."""
    hotstore = MemoryHotStore()
    _, row = await create_key(stores.access, tenant="acme", scopes=["query"])
    slow = AccessKeeper(stores.access, hotstore, KeyRing.open(None), SECRET, Metrics())
    await slow.look()
    before = await stores.access.access()
    await stores.access.revoke(None, row.key_id)
    await AccessKeeper(stores.access, hotstore, KeyRing.open(None), SECRET, Metrics()).look()
    slow._written = -100
    await slow._share(before)
    assert await shared(hotstore) == set()


async def test_without_a_hot_store_this_process_knows(stores: Stores) -> None:
    away, ring = open_hotstore(f"redis://127.0.0.1:{free_port()}/0"), KeyRing.open("db:")
    text, _ = await create_key(stores.access, tenant="acme", scopes=["query"])
    await AccessKeeper(stores.access, away, ring, SECRET, Metrics()).look()
    assert knows(ring, text)
    await away.aclose()


async def test_without_the_database_everything_stays_as_it_is(stores: Stores) -> None:
    ring, hotstore = KeyRing.open("db:"), MemoryHotStore()
    text, _ = await create_key(stores.access, tenant="acme", scopes=["query"])
    keeper = AccessKeeper(stores.access, hotstore, ring, SECRET, Metrics())
    await keeper.look()
    await stores.aclose()
    with pytest.raises(DependencyUnavailable):
        await keeper.look()
    await keeper.catch_up()
    assert knows(ring, text)


async def test_the_text_of_a_key_has_its_form(stores: Stores) -> None:
    text, row = await create_key(stores.access, tenant="acme", scopes=["llm", "query"], name="x", expires_at=4e9)
    assert text.startswith(f"ls_{row.key_id}_")
    assert len(text.removeprefix(f"ls_{row.key_id}_")) == 43
    assert (row.scopes, row.name, row.expires_at, state_of(row)) == (("llm", "query"), "x", 4e9, "active")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tenant": "a b"}, "tenant"),
        ({"scopes": ["fly"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_at": 5.0}, "expires_at"),
        ({"expires_at": float("inf")}, "expires_at"),
    ],
)
async def test_what_is_no_key_is_not_made(stores: Stores, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        await create_key(stores.access, **{"tenant": "acme", "scopes": ["query"], **wrong})  # type: ignore[arg-type]
    assert await stores.access.keys(None, limit=9) == []
