"""One suite for every database: an event makes its messages in its own commit; each is given to one caller at a time, and settled once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from common.contracts.query import Usage
from heavy.storage.open import open_stores
from heavy.storage.postgres.deliveries import DUE
from heavy.turns.rows import Note, SessionEvent
from heavy.turns.stores import LeaseLost, Stores
from heavy.turns.webhooks import Change
from tests.support.turns import LEASE, accept, answer, fence_of, session_of, talk
from tests.support.webhooks import CLOSED, GOOD, LATER, NEVER, add, all_of, close, due, one, receiver, settle

MESSAGE = "session.message"


async def types_of(stores: Stores) -> list[tuple[str, str]]:
    return sorted((d.webhook_id, d.type) for d in await all_of(stores))


async def test_an_event_makes_one_message_for_each_webhook_that_wants_it(stores: Stores) -> None:
    both, closed = await add(stores, events=(MESSAGE, CLOSED)), await add(stores, events=(CLOSED,))
    await add(stores, events=("task.failed",))
    await add(stores, tenant="other", events=(CLOSED,))
    session = await close(stores, "s1", MESSAGE, CLOSED, "session.accepted", "session.close")
    assert await types_of(stores) == sorted([(both.webhook_id, CLOSED), (both.webhook_id, MESSAGE), (closed.webhook_id, CLOSED)])
    assert await all_of(stores, "other") == []
    message = next(d for d in await all_of(stores) if d.type == MESSAGE)
    assert json.loads(message.data) == {"session_id": "s1", "n": 0, "text": "\0 中文"}
    assert (message.session_id, message.host, message.status, message.attempts) == ("s1", "example.com:443", "pending", 0)
    assert message.at == session.updated_at
    assert message.next_at == pytest.approx(session.updated_at)
    assert len({d.delivery_id for d in await all_of(stores)}) == 3
    assert all(len(d.delivery_id) == 36 and d.delivery_id.startswith("msg_") for d in await all_of(stores))


async def test_every_way_of_making_an_event_makes_its_messages(stores: Stores) -> None:
    await add(stores, events=(MESSAGE, CLOSED))
    event = SessionEvent(MESSAGE, {"session_id": "s1"})
    turn = (await accept(stores, "t_1")).turn
    fence = fence_of(turn)
    await stores.turns.pause(fence, first_idx=1, messages=[], usage=Usage(), approval={"n": 1}, reply={}, events=[event])
    decided: dict[str, Any] = {"before": {"n": 1}, "approval": {"n": 2}, "resume": True, "owner": "a", "lease_seconds": LEASE}
    assert await stores.turns.decide("acme", "t_1", events=[event], **decided) is not None
    claimed = await stores.turns.claim("acme", "t_1", owner="a", lease_seconds=LEASE)
    assert claimed is not None
    await stores.turns.finish(fence_of(claimed), answer(events=[event, SessionEvent(CLOSED, {})]))
    assert await stores.sessions.note(Note("acme", "s1", events=[event])) is not None
    assert [d.type for d in await all_of(stores)].count(MESSAGE) == 4
    assert len(await all_of(stores)) == 5


async def test_what_is_not_committed_makes_no_message(stores: Stores) -> None:
    await add(stores)
    turn = (await accept(stores, "t_1")).turn
    stale = replace(fence_of(turn), attempt=0)
    with pytest.raises(LeaseLost):
        await stores.turns.finish(stale, answer(events=[SessionEvent(CLOSED, {})]))
    assert await stores.sessions.note(Note("acme", "s1", statuses=("closed",), events=[SessionEvent(CLOSED, {})])) is None
    assert await all_of(stores) == []
    end = answer(events=[SessionEvent(CLOSED, {})])
    await stores.turns.finish(fence_of(turn), end)
    with pytest.raises(LeaseLost):
        await stores.turns.finish(fence_of(turn), end)
    assert len(await all_of(stores)) == 1


async def test_erasing_a_session_erases_its_messages(stores: Stores) -> None:
    await add(stores)
    await close(stores, "s1")
    await close(stores, "s2")
    (first, _) = await due(stores)
    assert await stores.sessions.delete("acme", "s1")
    assert [d.session_id for d in await all_of(stores)] == ["s2"]
    await settle(stores, first.row, LATER)  # one that is under way is not written again
    assert [d.session_id for d in await all_of(stores)] == ["s2"]


async def test_a_message_is_held_for_one_caller(stores: Stores) -> None:
    webhook = await add(stores, secret="whsec_s")
    session = await close(stores)
    (found,) = await due(stores)
    assert (found.url, found.secret, found.dead) == (webhook.receiver.url, "whsec_s", None)
    assert (found.row.webhook_id, found.row.attempts, found.row.status) == (webhook.webhook_id, 1, "pending")
    assert found.row.next_at == pytest.approx(session.updated_at + 30, abs=5)
    assert found.row == await one(stores)
    assert await due(stores) == []
    assert "whsec_s" not in repr(found)
    assert webhook.receiver.url not in repr(found)


async def test_a_hold_that_is_over_gives_it_to_another(stores: Stores) -> None:
    await add(stores)
    await close(stores)
    (dead,) = await due(stores, hold=-1)
    (found,) = await due(stores)
    assert (found.row.delivery_id, found.row.attempts) == (dead.row.delivery_id, 2)
    await settle(stores, dead.row, NEVER)  # the late word of the first one changes nothing
    assert (await one(stores)).status == "pending"
    await settle(stores, dead.row, GOOD)
    assert (await one(stores)).status == "pending"
    await settle(stores, found.row, GOOD)
    assert (await one(stores)).status == "delivered"


async def test_each_message_is_given_to_one_of_two_replicas(stores: Stores, other_stores: Stores) -> None:
    for host in range(3):
        await add(stores, host=f"h{host}:443")
    await asyncio.gather(*(close(stores, f"s{n}") for n in range(12)))
    batches = await asyncio.gather(*(due(s, 5, per_host=2) for s in (stores, other_stores) * 8))
    found = [d.row.delivery_id for batch in batches for d in batch]
    while more := await due(stores):
        found += [d.row.delivery_id for d in more]
    assert sorted(found) == sorted(d.delivery_id for d in await all_of(stores))
    assert len(found) == 36


async def test_nobody_gets_more_than_there_is_room_for(stores: Stores) -> None:
    await add(stores, host="slow:443")
    await add(stores, host="quick:443")
    await add(stores, tenant="other", host="slow:443")
    for n in range(6):
        await close(stores, f"s{n}")
        await close(stores, f"s{n}", tenant="other")

    async def hosts(limit: int, **room: Any) -> list[tuple[str, str]]:
        return sorted((d.row.tenant, d.row.host) for d in await due(stores, limit, hold=-1, **room))

    slow, quick, other = ("acme", "slow:443"), ("acme", "quick:443"), ("other", "slow:443")
    assert await hosts(100, per_host=2) == [quick, quick, slow, slow, other, other]
    assert await hosts(100, per_host=2, busy={slow: 2, quick: 1}) == [quick, other, other]
    assert await hosts(100, per_host=2, busy={slow: 9, other: 9}) == [quick, quick]
    assert len(await hosts(3, per_host=2)) == 3
    assert len([h for h in await hosts(100, per_tenant=3) if h[0] == "acme"]) == 3
    assert await hosts(100, per_tenant=3, busy={slow: 2}) in ([slow, *[other] * 3], [quick, *[other] * 3])
    assert await hosts(100, per_tenant=2, busy={("acme", "third:443"): 2}) == [other, other]
    assert await hosts(0) == []


async def test_those_that_are_overdue_the_longest_come_first(stores: Stores) -> None:
    await add(stores)
    for n in range(4):
        await close(stores, f"s{n}")
    messages = await due(stores)
    for message, seconds in zip(messages, (-10, -40, -20, 3600), strict=True):
        await settle(stores, message.row, replace(LATER, after_seconds=seconds))
    assert {d.row.session_id for d in await due(stores, 2)} == {messages[1].row.session_id, messages[2].row.session_id}
    assert [d.row.session_id for d in await due(stores)] == [messages[0].row.session_id]


async def test_a_delivered_message(stores: Stores) -> None:
    await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await settle(stores, found.row, GOOD) is False
    row = await one(stores)
    assert (row.status, row.last_status, row.last_error, row.attempts) == ("delivered", 204, None, 1)
    assert row.finished_at == pytest.approx(row.created_at, abs=5)
    assert await due(stores, hold=-1) == []


async def test_a_failed_attempt_is_tried_again(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await settle(stores, found.row, LATER) is False
    row = await one(stores)
    assert (row.status, row.last_status, row.last_error, row.finished_at) == ("pending", 500, "the receiver answered 500", None)
    assert row.next_at == pytest.approx(row.created_at + 60, abs=5)
    failing = await stores.webhooks.get("acme", webhook.webhook_id)
    assert failing is not None
    assert failing.failing_since == pytest.approx(row.created_at, abs=5)
    await settle(stores, found.row, replace(LATER, after_seconds=-1.0))  # the same word again: it is not held any more
    assert await due(stores) == []


async def test_a_success_ends_what_has_failed(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    (found,) = await due(stores)
    await settle(stores, found.row, replace(LATER, after_seconds=-1.0))
    (again,) = await due(stores)
    await settle(stores, again.row, GOOD)
    assert (await one(stores)).last_error is None
    assert await stores.webhooks.get("acme", webhook.webhook_id) == webhook


async def test_one_that_is_given_up(stores: Stores) -> None:
    await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await settle(stores, found.row, NEVER) is False
    row = await one(stores)
    assert (row.status, row.last_error) == ("failed", "the receiver answered 500")
    assert row.finished_at is not None
    assert await due(stores, hold=-1) == []


async def test_a_webhook_that_is_gone_is_disabled_and_what_waits_fails(stores: Stores) -> None:
    webhook, other = await add(stores), await add(stores)
    for n in range(3):
        await close(stores, f"s{n}")
    mine = [d for d in await due(stores, hold=-1) if d.row.webhook_id == webhook.webhook_id]
    assert await settle(stores, mine[0].row, replace(NEVER, status=410, disable="the receiver answered 410")) is True
    gone = await stores.webhooks.get("acme", webhook.webhook_id)
    assert gone is not None
    assert (gone.disabled_reason, gone.disabled_at is not None) == ("the receiver answered 410", True)
    assert await settle(stores, mine[1].row, NEVER) is False  # it was disabled before
    waiting = [d for d in await due(stores, hold=-1) if d.row.webhook_id == webhook.webhook_id]
    assert [(d.url, d.dead) for d in waiting] == [(None, "the webhook is disabled")]
    assert await stores.deliveries.abandon("acme", webhook.webhook_id, "the webhook is disabled") == 1
    assert await stores.deliveries.abandon("acme", webhook.webhook_id, "the webhook is disabled") == 0
    states = sorted((d.webhook_id == other.webhook_id, d.status) for d in await all_of(stores))
    assert states == [(False, "failed")] * 3 + [(True, "pending")] * 3
    await close(stores, "s9")
    assert {d.webhook_id for d in await all_of(stores) if d.session_id == "s9"} == {other.webhook_id}


async def test_what_was_delivered_is_so_even_where_it_was_given_up_meanwhile(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await stores.deliveries.abandon("acme", webhook.webhook_id, "the webhook is disabled") == 1
    await settle(stores, found.row, LATER)
    assert (await one(stores)).status == "failed"
    await settle(stores, found.row, GOOD)
    assert ((await one(stores)).status, (await one(stores)).last_error) == ("delivered", None)


async def test_a_webhook_without_a_success_for_long_is_disabled(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    (found,) = await due(stores)
    assert await settle(stores, found.row, replace(LATER, after_seconds=-1.0)) is False
    (found,) = await due(stores)
    assert await settle(stores, found.row, replace(LATER, after_seconds=-1.0), patience=3600) is False
    (found,) = await due(stores)
    assert await settle(stores, found.row, LATER, patience=-1.0) is True
    row = await stores.webhooks.get("acme", webhook.webhook_id)
    assert row is not None
    assert row.disabled_reason == "it has failed for too long: the receiver answered 500"


async def test_messages_of_a_deleted_webhook(stores: Stores) -> None:
    webhook = await add(stores)
    await close(stores)
    await stores.webhooks.delete("acme", webhook.webhook_id)
    (found,) = await due(stores)
    assert (found.url, found.secret, found.dead) == (None, None, "the webhook was deleted")
    assert await settle(stores, found.row, NEVER) is False
    assert await stores.deliveries.replay("acme", found.row.delivery_id) is None


async def test_one_that_was_not_tried_to_the_end_is_due_at_once(stores: Stores) -> None:
    await add(stores)
    await close(stores)
    (found,) = await due(stores)
    await stores.deliveries.release(found.row)
    assert (await one(stores)).attempts == 0
    (again,) = await due(stores)
    assert (again.row.attempts, again.row.delivery_id) == (1, found.row.delivery_id)
    await stores.deliveries.release(found.row)  # it is not this one's any more
    assert (await one(stores)) == again.row


async def test_one_message_to_one_webhook(stores: Stores) -> None:
    webhook = await add(stores, events=("task.failed",))
    sent = await stores.deliveries.send("acme", "msg_1", webhook.webhook_id, "webhook.test", '{"a":1}')
    assert sent is not None
    assert (sent.type, sent.data, sent.session_id, sent.status, sent.host) == (
        "webhook.test", '{"a":1}', None, "pending", "example.com:443",
    )  # fmt: skip
    assert await stores.deliveries.send("acme", "msg_1", webhook.webhook_id, "webhook.test", "{}") == sent
    assert await stores.deliveries.send("other", "msg_2", webhook.webhook_id, "webhook.test", "{}") is None
    assert await stores.deliveries.send("acme", "msg_2", "wh_none", "webhook.test", "{}") is None
    await stores.webhooks.change("acme", webhook.webhook_id, Change(enabled=False))
    assert await stores.deliveries.send("acme", "msg_2", webhook.webhook_id, "webhook.test", "{}") is None


async def test_turns_that_end_while_webhooks_come_and_go(stores: Stores, other_stores: Stores) -> None:
    """Neither blocks the other, and no end of a turn fails for it."""
    row = await add(stores)

    async def come_and_go(s: Stores, n: int) -> None:
        for i in range(5):
            webhook_id = f"wh_x{n}{i}"
            await s.webhooks.add("acme", webhook_id, receiver(), most=100)
            await s.webhooks.change("acme", webhook_id, Change(enabled=i % 2 == 0))
            await s.webhooks.delete("acme", webhook_id)

    async def deliver(s: Stores) -> None:
        for _ in range(5):
            for message in await due(s, 5):
                await settle(s, message.row, GOOD)

    both = (stores, other_stores)
    talks = [close(s, f"s{n}", CLOSED, CLOSED) for n, s in enumerate(both * 10)]
    await asyncio.gather(*talks, *(come_and_go(s, n) for n, s in enumerate(both)), *(deliver(s) for s in both))
    assert len(await all_of(stores, webhook_id=row.webhook_id)) == 40
    assert (await session_of(stores, "s7")).event_seq == 2


async def test_a_turn_without_events_makes_none(stores: Stores) -> None:
    await add(stores)
    await talk(stores, "t_1")
    assert await all_of(stores) == []


async def test_looking_for_due_messages_reads_an_index_only(postgres_database: str) -> None:
    stores = await open_stores(postgres_database)
    await add(stores)
    for n in range(30):
        await close(stores, f"s{n}")
    connection = await asyncpg.connect(postgres_database)
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")  # so small a table is read whole otherwise
        values = {"$1": "30", "$2": "10", "$3": "10", "$4": "4", "$5": "ARRAY['acme']", "$6": "ARRAY['x']", "$7": "ARRAY[1]"}
        statement = DUE
        for name, value in values.items():
            statement = statement.replace(name, value)
        plan = "\n".join(line[0] for line in await connection.fetch("EXPLAIN (ANALYZE, FORMAT TEXT) " + statement))
    finally:
        await connection.close()
        await stores.aclose()
    assert plan.count("deliveries_due") >= 4
    assert "Seq Scan on deliveries" not in plan
