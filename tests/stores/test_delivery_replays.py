"""One suite for every database: messages to webhooks are listed, and those that have failed are sent again."""

from __future__ import annotations

from dataclasses import replace

from heavy.turns.stores import Stores
from heavy.turns.webhooks import Change
from tests.support.webhooks import GOOD, NEVER, add, all_of, close, due, settle

MESSAGE = "session.message"


async def test_lists(stores: Stores) -> None:
    first, second = await add(stores), await add(stores)
    for n in range(3):
        await close(stores, f"s{n}")
    ids = sorted((d.delivery_id for d in await all_of(stores)), reverse=True)
    assert [d.delivery_id for d in await all_of(stores)] == ids
    assert [d.delivery_id for d in await stores.deliveries.of_tenant("acme", before=ids[1], limit=2)] == ids[2:4]
    assert {d.webhook_id for d in await all_of(stores, webhook_id=second.webhook_id)} == {second.webhook_id}
    for message in await due(stores):
        if message.row.webhook_id == first.webhook_id:
            await settle(stores, message.row, GOOD if message.row.session_id == "s0" else NEVER)
    counts = {status: len(await all_of(stores, status=status)) for status in ("pending", "delivered", "failed")}
    assert counts == {"pending": 3, "delivered": 1, "failed": 2}
    assert len(await all_of(stores, status="failed", webhook_id=second.webhook_id)) == 0
    assert await all_of(stores, "other") == []
    assert await stores.deliveries.get("other", ids[0]) is None
    assert (await stores.deliveries.get("acme", ids[0])) is not None
    assert await stores.deliveries.pending() == 3


async def test_a_replay_begins_anew_with_the_same_id(stores: Stores) -> None:
    await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await stores.deliveries.replay("acme", found.row.delivery_id) is None  # it is on its way
    for verdict in (NEVER, GOOD):
        await settle(stores, found.row, verdict)
        assert await stores.deliveries.replay("other", found.row.delivery_id) is None
        again = await stores.deliveries.replay("acme", found.row.delivery_id)
        assert again is not None
        assert (again.delivery_id, again.status, again.attempts, again.finished_at) == (found.row.delivery_id, "pending", 0, None)
        assert (again.data, again.at) == (found.row.data, found.row.at)
        (found,) = await due(stores)
        assert found.row.attempts == 1


async def test_a_replay_to_a_disabled_webhook(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    (found,) = await due(stores)
    await settle(stores, found.row, replace(NEVER, disable="gone"))
    assert await stores.deliveries.replay("acme", found.row.delivery_id) is None
    assert await stores.deliveries.replay_failed("acme", limit=9) == 0
    await stores.webhooks.change("acme", webhook.webhook_id, Change(enabled=True))
    assert await stores.deliveries.replay("acme", found.row.delivery_id) is not None


async def test_all_that_have_failed_are_replayed(stores: Stores) -> None:
    first, second = await add(stores), await add(stores)
    for n in range(4):
        await close(stores, f"s{n}")
    messages = await due(stores)
    for message in messages:
        await settle(stores, message.row, GOOD if message.row.session_id == "s3" else NEVER)
    assert await stores.deliveries.replay_failed("other", limit=99) == 0
    assert await stores.deliveries.replay_failed("acme", since=messages[-1].row.at + 60, limit=99) == 0
    assert await stores.deliveries.replay_failed("acme", webhook_id=first.webhook_id, limit=2) == 2
    assert await stores.deliveries.replay_failed("acme", webhook_id=first.webhook_id, limit=2) == 1
    assert {d.row.webhook_id for d in await due(stores)} == {first.webhook_id}
    assert await stores.deliveries.replay_failed("acme", since=messages[0].row.at, limit=99) == 3
    assert [d.row.webhook_id for d in await due(stores)] == [second.webhook_id] * 3
