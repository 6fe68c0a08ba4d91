"""PostgreSQL: a step whose commit went through but whose reply was lost is repeated, and the caller hears of it as if nothing had been."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest

from common.contracts.query import Usage
from heavy.jobs.rows import NewBatch, NewSchedule
from heavy.jobs.stores import JobStores
from heavy.storage.postgres.access import PostgresAccess
from heavy.storage.postgres.connection import Database
from heavy.storage.postgres.deliveries import PostgresDeliveries
from heavy.storage.postgres.ledger import PostgresLedger
from heavy.storage.postgres.schedules import PostgresSchedules
from heavy.storage.postgres.sessions import PostgresSessions
from heavy.storage.postgres.tasks import PostgresTasks
from heavy.storage.postgres.turns import PostgresTurns
from heavy.storage.postgres.webhooks import PostgresWebhooks
from heavy.tenants.stores import NewKey
from heavy.turns.rows import ArmTimer, Note, SessionEvent
from heavy.turns.stores import LeaseLost, Stores
from heavy.turns.webhooks import Change, Verdict
from tests.support.ledger import DAY, call
from tests.support.tasks import end, new_task
from tests.support.turns import LEASE, accept, answer, fence_of, new_turn, session_of, talk, tool_step
from tests.support.webhooks import CLOSED, PATIENCE, add, all_of, close, due, receiver

T = TypeVar("T")
EVENT = SessionEvent("session.e", {"session_id": "s1"})


class EveryReplyIsLostOnce(Database):
    """Each piece of work is done twice, as after a connection that broke behind the commit."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        await super().run(work)
        return await super().run(work)


@pytest.fixture
async def lossy(database_url: str, stores: Stores) -> AsyncIterator[Database]:
    """A connection to the database of `stores` that loses replies."""
    database = EveryReplyIsLostOnce(database_url, pool_size=2)
    yield database
    await database.aclose()


@pytest.fixture
def database_url(postgres_database: str) -> str:
    """PostgreSQL only: SQLite has no replies to lose."""
    return postgres_database


async def event_ids(stores: Stores) -> list[int]:
    return [e.id for e in await stores.sessions.events("acme", "s1", after=0, limit=99)]


async def test_the_end_of_a_turn(stores: Stores, lossy: Database) -> None:
    turn = (await accept(stores, "t_1")).turn
    end = answer(events=[EVENT], timers=[ArmTimer("timer", "x", 5)])
    session = await PostgresTurns(lossy).finish(fence_of(turn), end)
    assert (session.active, session.message_count, session.event_seq) == (0, 2, 1)
    assert await event_ids(stores) == [1]
    with pytest.raises(LeaseLost):
        await stores.turns.finish(fence_of(turn), end)


@pytest.mark.parametrize("after_seq", [None, 1])
async def test_an_accepted_turn_is_new_to_the_one_who_accepted_it(stores: Stores, lossy: Database, after_seq: int | None) -> None:
    await talk(stores, "t_1")
    new = new_turn("t_2", after_seq=after_seq)
    accepted = await PostgresTurns(lossy).accept(new, owner="a", lease_seconds=LEASE)
    assert (accepted.new_turn, accepted.turn.state, accepted.turn.owner) == (True, "running", "a")
    session = await session_of(stores)
    assert (session.turn_seq, session.active) == (2, 1)
    assert not (await PostgresTurns(lossy).accept(new, owner="b", lease_seconds=LEASE)).new_turn
    assert not (await stores.turns.accept(new, owner="a", lease_seconds=LEASE)).new_turn


async def test_a_claim(stores: Stores, lossy: Database) -> None:
    first = (await accept(stores, "t_1")).turn
    await accept(stores, "t_2")
    assert await PostgresTurns(lossy).claim("acme", "t_2", owner="b", lease_seconds=LEASE) is None
    await stores.turns.finish(fence_of(first), answer())
    claimed = await PostgresTurns(lossy).claim("acme", "t_2", owner="b", lease_seconds=LEASE)
    assert claimed is not None
    assert (claimed.state, claimed.attempt, claimed.owner) == ("running", 1, "b")
    assert await PostgresTurns(lossy).claim("acme", "t_2", owner="c", lease_seconds=LEASE) is None


async def test_a_pause_and_a_decision(stores: Stores, lossy: Database) -> None:
    turn = (await accept(stores, "t_1")).turn
    turns = PostgresTurns(lossy)
    session = await turns.pause(
        fence_of(turn), first_idx=1, messages=tool_step(), usage=Usage(), approval={"n": 1}, reply={}, events=[EVENT]
    )  # fmt: skip
    assert (session.active, session.event_seq) == (0, 1)
    values: dict[str, Any] = {"owner": "b", "lease_seconds": LEASE, "resume": True, "events": [EVENT]}
    row = await turns.decide("acme", "t_1", before={"n": 1}, approval={"n": 2}, **values)
    assert row is not None
    assert (row.state, row.approval) == ("waiting", {"n": 2})
    session = await session_of(stores)
    assert (session.active, session.event_seq) == (1, 2)
    assert await event_ids(stores) == [1, 2]
    assert await turns.decide("acme", "t_1", before={"n": 1}, approval={"n": 3}, **values) is None


async def test_a_note_on_a_hand_off(stores: Stores, lossy: Database) -> None:
    await talk(stores, "t_1", answer(session_status="transferred", handoff={"by": None}))
    note = Note("acme", "s1", statuses=("transferred",), before={"by": None}, handoff={"by": "Ann"}, session_status="ready", events=[EVENT])
    noted = await PostgresSessions(lossy).note(note)
    assert noted is not None
    assert (noted.status, noted.handoff, noted.event_seq) == ("ready", {"by": "Ann"}, 1)
    assert await event_ids(stores) == [1]


async def test_the_messages_of_a_step_are_made_once(stores: Stores, lossy: Database) -> None:
    await add(stores)
    turn = (await accept(stores, "t_1")).turn
    await PostgresTurns(lossy).finish(fence_of(turn), answer(events=[SessionEvent(CLOSED, {})]))
    assert await PostgresSessions(lossy).note(Note("acme", "s1", handoff={"by": "Ann"}, before={}, events=[SessionEvent(CLOSED, {})]))
    assert len(await all_of(stores)) == 2


async def test_a_webhooks_life(stores: Stores, lossy: Database) -> None:
    webhooks = PostgresWebhooks(lossy)
    row = await webhooks.add("acme", "wh_1", receiver(), most=1)
    assert row is not None
    assert row == await stores.webhooks.get("acme", "wh_1")
    assert await webhooks.ensure("acme", receiver()) == await stores.webhooks.ensure("acme", receiver())
    off = await webhooks.change("acme", "wh_1", Change(enabled=False))
    assert off is not None
    assert off.disabled_at is not None
    assert await webhooks.delete("acme", "wh_1") is True
    assert await stores.webhooks.get("acme", "wh_1") is None


async def test_a_messages_life(stores: Stores, lossy: Database) -> None:
    webhook, deliveries = await add(stores), PostgresDeliveries(lossy)
    sent = await deliveries.send("acme", "msg_1", webhook.webhook_id, "webhook.test", "{}")
    assert sent is not None
    (found,) = await due(stores)
    await deliveries.release(found.row)
    (found,) = await due(stores)
    assert found.row.attempts == 1
    await deliveries.settle(found.row, Verdict(False, None, 410, "gone", disable="gone"), patience_seconds=PATIENCE)
    await stores.webhooks.change("acme", webhook.webhook_id, Change(enabled=True))
    again = await deliveries.replay("acme", "msg_1")
    assert again is not None
    assert (again.status, again.attempts) == ("pending", 0)
    (found,) = await due(stores)
    await deliveries.settle(found.row, Verdict(True, status=200), patience_seconds=PATIENCE)
    (row,) = await all_of(stores)
    assert (row.status, row.attempts) == ("delivered", 1)
    await close(stores)
    assert len(await all_of(stores)) == 2


async def test_a_task_is_submitted_and_ended_once(stores: JobStores, lossy: Database) -> None:
    tasks = PostgresTasks(lossy)
    await talk(stores, "t_turn")
    task, _ = await tasks.submit(new_task("t_1", session_id="s1"))
    assert task.task_id == "t_1"
    ended = await tasks.end("acme", [end("t_1")])
    assert [t.status for t in ended] == ["success"]
    assert await event_ids(stores) == [1]
    assert await tasks.end("acme", [end("t_1", "failure")]) == []


async def test_a_batch_is_stored_and_counted_once(stores: JobStores, lossy: Database) -> None:
    tasks = PostgresTasks(lossy)
    batch, _ = await tasks.submit_batch(NewBatch("acme", "b_1"), [new_task(f"t_{n}", batch_id="b_1", position=n) for n in range(3)])
    assert (batch.total, batch.open) == (3, 3)
    await tasks.end("acme", [end("t_0"), end("t_1")])
    found = await stores.tasks.batch("acme", "b_1")
    assert found is not None
    assert (found.open, found.counts) == (1, {"success": 2, "pending": 1})


async def test_what_was_picked_without_a_reply_is_given_back_by_the_sweep(stores: JobStores, lossy: Database) -> None:
    for n in range(4):
        await stores.tasks.submit(new_task(f"t_{n}"))
    known = await PostgresTasks(lossy).pick("task", owner="a", lease_seconds=-1, limit=2, depth=9)
    assert [t.task_id for t in known] == ["t_2", "t_3"]
    lost = [t for t in await stores.tasks.unsettled(limit=9) if t.task_id not in {k.task_id for k in known}]
    assert [t.task_id for t in lost] == ["t_0", "t_1"]
    assert [await stores.tasks.release(t) for t in lost] == [True, True]
    assert {t.attempts for t in await stores.tasks.pick("task", owner="b", lease_seconds=9, limit=9, depth=9)} == {1}


async def test_a_tick_is_taken_once(stores: JobStores, lossy: Database) -> None:
    schedules = PostgresSchedules(lossy)
    request = {"message": "good morning"}
    row = await schedules.create(NewSchedule("acme", "sch_1", "* * * * *", "UTC", "s1", "shop", request, 3, 1000.0))
    await schedules.advance(row, 1060.0, new_task("t_tick"))
    after = await stores.schedules.get("acme", "sch_1")
    assert after is not None
    assert (after.next_at, after.last_at) == (1060.0, 1000.0)
    assert len(await stores.tasks.page("acme", limit=9)) == 1
    assert await schedules.delete("acme", "sch_1")


async def test_a_key_and_its_end(stores: Stores, lossy: Database) -> None:
    access = PostgresAccess(lossy)
    row = await access.add_key(NewKey("acme", "k1", "1a" * 32, ("query",)))
    assert row is not None
    assert [k.key_id for k in await stores.access.keys("acme", limit=9)] == ["k1"]
    revoked = await access.revoke("acme", "k1")
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert (await access.set_limits("acme", {"open_streams": 5})).limits == {"open_streams": 5}


async def test_lines_of_the_ledger_count_once(stores: Stores, lossy: Database) -> None:
    await PostgresLedger(lossy).record([call("c1"), call("c2")])
    found = await stores.ledger.costs("acme", first=DAY, last=DAY, group_by=(), limit=9)
    assert [(s.calls, s.input_tokens) for s in found] == [(2, 200)]
