"""One suite for every database: API keys, limits of tenants, the revision of both, and what a tenant has spent and runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from common.contracts.access import Key, KeyLimits
from heavy.tenants.stores import NewKey, TenantRow
from heavy.turns.stores import Stores
from tests.support.turns import accept, talk

KEY = NewKey("acme", "k1", "1a" * 32, ("query", "llm"), "the shop's")
OTHER = NewKey("other", "k2", "2b" * 32, ("admin",))


async def test_a_new_database_asks_for_no_key(stores: Stores) -> None:
    access = await stores.access.access()
    assert (access.required, access.keys, access.limits) == (False, (), {})
    assert access.revision == await stores.access.revision()


async def test_a_key_is_stored_once_and_is_in_force(stores: Stores) -> None:
    row = await stores.access.add_key(KEY)
    assert row is not None
    assert (row.tenant, row.key_id, row.name, row.scopes) == ("acme", "k1", "the shop's", ("query", "llm"))
    assert (row.expires_at, row.revoked_at) == (None, None)
    assert abs(row.created_at - time.time()) < 60
    assert await stores.access.add_key(KEY) == row
    access = await stores.access.access()
    assert access.keys == (Key("k1", "acme", frozenset({"query", "llm"}), bytes.fromhex(KEY.digest), None),)
    assert access.required


async def test_a_key_has_limits_of_its_own(stores: Stores) -> None:
    row = await stores.access.add_key(replace(KEY, limits={"tokens_per_day": 5, "cost_usd_per_day": 0.5}))
    assert row is not None
    assert row.limits == {"tokens_per_day": 5, "cost_usd_per_day": 0.5}
    await stores.access.add_key(OTHER)
    held = {key.key_id: key.limits for key in (await stores.access.access()).keys}
    assert held == {"k1": KeyLimits(5, 0.5), "k2": KeyLimits()}


async def test_an_id_or_a_digest_that_another_key_has_is_not_taken(stores: Stores) -> None:
    await stores.access.add_key(KEY)
    assert await stores.access.add_key(replace(OTHER, key_id="k1")) is None
    assert await stores.access.add_key(replace(OTHER, digest=KEY.digest)) is None
    assert await stores.access.add_key(replace(KEY, digest=OTHER.digest)) is None
    assert len(await stores.access.keys(None, limit=10)) == 1


async def test_every_change_raises_the_revision(stores: Stores) -> None:
    seen = [await stores.access.revision()]
    for change in (
        lambda: stores.access.add_key(KEY),
        lambda: stores.access.revoke(None, "k1"),
        lambda: stores.access.set_limits("acme", {"tokens_per_day": 5}),
        lambda: stores.access.set_limits("acme", {"tokens_per_day": None}),
    ):
        await change()
        seen.append(await stores.access.revision())
    assert seen == sorted(set(seen))
    assert (await stores.access.access()).revision == seen[-1]


async def test_the_revision_of_a_new_database_is_above_that_of_an_old_one(stores: Stores) -> None:
    """So that replicas that follow an old one through the hot store take the new one's keys."""
    assert abs(await stores.access.revision() / 1000 - time.time()) < 3600


async def test_changes_at_once_are_all_counted(stores: Stores, other_stores: Stores) -> None:
    before = await stores.access.revision()
    both = (stores, other_stores)
    new = [replace(KEY, key_id=f"k{i}", digest=f"{i:064x}") for i in range(20)]
    await asyncio.gather(*(both[i % 2].access.add_key(key) for i, key in enumerate(new)))
    assert await stores.access.revision() == before + 20
    assert len((await other_stores.access.access()).keys) == 20


async def test_a_revoked_key_is_not_in_force_and_leaves_the_door_closed(stores: Stores) -> None:
    await stores.access.add_key(KEY)
    row = await stores.access.revoke("acme", "k1")
    assert row is not None
    assert row.revoked_at is not None
    assert await stores.access.revoke(None, "k1") == row
    access = await stores.access.access()
    assert (access.keys, access.required) == ((), True)
    assert await stores.access.keys("acme", limit=10) == [row]


async def test_another_tenants_key_is_as_good_as_none(stores: Stores) -> None:
    await stores.access.add_key(KEY)
    await stores.access.add_key(OTHER)
    assert await stores.access.revoke("other", "k1") is None
    assert await stores.access.revoke("other", "never") is None
    assert [k.key_id for k in await stores.access.keys("other", limit=10)] == ["k2"]
    assert len((await stores.access.access()).keys) == 2


async def test_keys_that_have_long_expired_are_not_sent_to_servers(stores: Stores) -> None:
    now = time.time()
    for i, (key_id, expires) in enumerate((("long ago", now - 2 * 86400), ("just now", now - 60), ("soon", now + 60))):
        await stores.access.add_key(replace(KEY, key_id=key_id, digest=f"{i:064x}", expires_at=expires))
    assert {k.key_id for k in (await stores.access.access()).keys} == {"just now", "soon"}
    assert [k.expires_at for k in await stores.access.keys("acme", limit=10) if k.key_id == "soon"] == [now + 60]


async def test_the_newest_keys_come_first(stores: Stores) -> None:
    for i in range(3):
        await stores.access.add_key(replace(KEY, key_id=f"k{i}", digest=f"{i:064x}"))
    assert [k.key_id for k in await stores.access.keys(None, limit=2)] == ["k2", "k1"]


async def test_limits_are_set_and_taken_away_by_name(stores: Stores) -> None:
    row = await stores.access.set_limits("acme", {"requests_per_minute": 60, "cost_usd_per_day": 2.5, "open_streams": None})
    assert row == TenantRow("acme", {"requests_per_minute": 60, "cost_usd_per_day": 2.5})
    row = await stores.access.set_limits("acme", {"requests_per_minute": None, "tokens_per_day": 1000})
    assert row == TenantRow("acme", {"cost_usd_per_day": 2.5, "tokens_per_day": 1000})
    assert (await stores.access.access()).limits == {"acme": {"cost_usd_per_day": 2.5, "tokens_per_day": 1000}}


async def test_tenants_are_those_with_keys_or_limits(stores: Stores) -> None:
    await stores.access.add_key(OTHER)
    await stores.access.add_key(replace(OTHER, tenant="*", key_id="k3", digest="3c" * 32))
    await stores.access.set_limits("acme", {"open_streams": 10})
    assert await stores.access.tenants(None, limit=10) == [TenantRow("acme", {"open_streams": 10}), TenantRow("other")]
    assert await stores.access.tenants("other", limit=10) == [TenantRow("other")]
    assert await stores.access.tenants("nobody", limit=10) == []
    assert await stores.access.tenants(None, limit=1) == [TenantRow("acme", {"open_streams": 10})]


async def test_active_turns_are_counted_by_tenant(stores: Stores) -> None:
    assert await stores.access.active_turns("acme") == 0
    await talk(stores, "t_1")
    await accept(stores, "t_2")
    await accept(stores, "t_3")  # it waits behind the other
    await accept(stores, "t_4", session_id="s2", tenant="other")
    assert await stores.access.active_turns("acme") == 2
    assert await stores.access.active_turns("other") == 1
