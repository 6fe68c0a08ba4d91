"""One suite for every database: webhooks are registered, changed, forgotten, and found by nobody but their tenant."""

from __future__ import annotations

import asyncio

import pytest

from heavy.turns.stores import Stores
from heavy.turns.webhooks import Change, Receiver, Verdict
from tests.support.webhooks import PATIENCE, add, all_of, close, due, receiver

FULL = Receiver("https://example.com/a?token=1", "example.com:443", ("task.failed", "session.closed"), "whsec_x", "the desk \0")


async def test_a_webhook_comes_back_as_it_was_registered(stores: Stores) -> None:
    row = await stores.webhooks.add("acme", "wh_1", FULL, most=9)
    assert row is not None
    assert (row.tenant, row.webhook_id, row.kind, row.disabled_at, row.failing_since) == ("acme", "wh_1", "tenant", None, None)
    assert row.receiver == Receiver(FULL.url, FULL.host, FULL.events, "whsec_x", "the desk \ufffd")
    assert await stores.webhooks.get("acme", "wh_1") == row
    assert "token" not in repr(row)
    assert "whsec_x" not in repr(row)


async def test_another_tenant_finds_nothing(stores: Stores) -> None:
    row = await add(stores)
    there = ("other", row.webhook_id)
    assert await stores.webhooks.get(*there) is None
    assert await stores.webhooks.change(*there, Change(enabled=False)) is None
    assert await stores.webhooks.delete(*there) is False
    assert await stores.webhooks.of_tenant("other", limit=9) == []
    assert await stores.webhooks.get("acme", row.webhook_id) == row


async def test_registering_again_changes_nothing(stores: Stores) -> None:
    first = await stores.webhooks.add("acme", "wh_1", FULL, most=1)
    assert await stores.webhooks.add("acme", "wh_1", receiver("other"), most=1) == first
    assert await stores.webhooks.add("acme", "wh_2", FULL, most=1) is None
    assert await stores.webhooks.add("other", "wh_1", FULL, most=1) is not None


async def test_there_are_never_more_than_allowed(stores: Stores, other_stores: Stores) -> None:
    tries = [s.webhooks.add("acme", f"wh_{i}{n}", FULL, most=3) for i in range(5) for n, s in enumerate((stores, other_stores))]
    rows = await asyncio.gather(*tries)
    assert len([r for r in rows if r is not None]) == 3
    await stores.webhooks.ensure("acme", FULL)  # those of requests do not count
    assert len(await stores.webhooks.of_tenant("acme", limit=99)) == 4


async def test_lists_are_paged_by_id(stores: Stores) -> None:
    ids = [(await add(stores)).webhook_id for _ in range(3)]
    of_request = await stores.webhooks.ensure("acme", FULL)

    async def found(**more: str) -> list[str]:
        return [w.webhook_id for w in await stores.webhooks.of_tenant("acme", limit=2, **more)]  # type: ignore[arg-type]

    assert await found(kind="tenant") == ids[:2]
    assert await found(kind="tenant", after=ids[1]) == ids[2:]
    assert await found(kind="request") == [of_request]
    everything = await found()
    everything += await found(after=everything[-1])
    assert everything == sorted([*ids, of_request])


async def test_a_change_touches_what_it_names(stores: Stores) -> None:
    before = await stores.webhooks.add("acme", "wh_1", FULL, most=9)
    assert before is not None
    assert await stores.webhooks.change("acme", "wh_1", Change()) == before
    moved = await stores.webhooks.change("acme", "wh_1", Change(url="http://b.example/x", host="b.example:80", events=("task.failed",)))
    assert moved is not None
    assert moved.receiver == Receiver("http://b.example/x", "b.example:80", ("task.failed",), "whsec_x", "the desk \ufffd")
    described = await stores.webhooks.change("acme", "wh_1", Change(description=""))
    assert described is not None
    assert (described.receiver.description, described.disabled_at) == ("", None)


async def test_disabled_by_hand_and_enabled_again(stores: Stores) -> None:
    row = await add(stores)
    off = await stores.webhooks.change("acme", row.webhook_id, Change(enabled=False))
    assert off is not None
    assert off.disabled_at == pytest.approx(row.created_at, abs=5)
    assert off.disabled_reason == "disabled by hand"
    await close(stores)
    assert await all_of(stores) == []
    assert await stores.webhooks.change("acme", row.webhook_id, Change(enabled=False)) == off
    assert await stores.webhooks.change("acme", row.webhook_id, Change(enabled=True)) == row
    await close(stores)
    assert len(await all_of(stores)) == 1


async def test_to_enable_forgets_why_and_since_when(stores: Stores) -> None:
    row = await add(stores)
    await close(stores)
    (message,) = await due(stores)
    assert await stores.deliveries.settle(message.row, Verdict(False, None, 410, "gone", disable="gone"), patience_seconds=PATIENCE)
    again = await stores.webhooks.change("acme", row.webhook_id, Change(enabled=True))
    assert again == row


async def test_another_url_begins_without_a_history(stores: Stores) -> None:
    row = await add(stores)
    await close(stores)
    (message,) = await due(stores)
    await stores.deliveries.settle(message.row, Verdict(False, -1.0, 500, "x"), patience_seconds=PATIENCE)
    for change, failing in ((Change(description="x"), True), (Change(url="https://b.example/", host="b.example:443"), False)):
        changed = await stores.webhooks.change("acme", row.webhook_id, change)
        assert changed is not None
        assert (changed.failing_since is not None) is failing
    (again,) = await due(stores)
    assert again.url == "https://b.example/"  # what waits goes there


async def test_a_deleted_webhook_hears_of_nothing(stores: Stores) -> None:
    row = await add(stores)
    assert await stores.webhooks.delete("acme", row.webhook_id) is True
    assert await stores.webhooks.delete("acme", row.webhook_id) is False
    assert await stores.webhooks.get("acme", row.webhook_id) is None
    await close(stores)
    assert await all_of(stores) == []


async def test_a_requests_webhook_is_one_for_each_url_and_secret(stores: Stores) -> None:
    first = await stores.webhooks.ensure("acme", receiver())
    assert await stores.webhooks.ensure("acme", receiver(events=("task.completed",))) == first
    others = {
        await stores.webhooks.ensure("acme", receiver("other")),
        await stores.webhooks.ensure("acme", receiver(secret="whsec_1")),
        await stores.webhooks.ensure("acme", receiver(secret="whsec_2")),
    }
    assert len({first, *others}) == 4
    await stores.webhooks.ensure("other", receiver())
    row = await stores.webhooks.get("acme", first)
    assert row is not None
    assert (row.kind, row.receiver.url, row.receiver.secret) == ("request", receiver().url, None)
    assert len(await stores.webhooks.of_tenant("other", limit=9)) == 1
    await close(stores)  # it hears of what names it, and of nothing else
    assert await all_of(stores) == []


async def test_a_request_that_names_a_disabled_webhook_enables_it(stores: Stores) -> None:
    webhook_id = await stores.webhooks.ensure("acme", receiver())
    await stores.webhooks.change("acme", webhook_id, Change(enabled=False))
    assert await stores.webhooks.ensure("acme", receiver()) == webhook_id
    row = await stores.webhooks.get("acme", webhook_id)
    assert row is not None
    assert (row.disabled_at, row.disabled_reason, row.failing_since) == (None, None, None)


async def test_many_ensure_at_once(stores: Stores, other_stores: Stores) -> None:
    ids = await asyncio.gather(*(s.webhooks.ensure("acme", receiver()) for s in (stores, other_stores) * 10))
    assert len(set(ids)) == 1
