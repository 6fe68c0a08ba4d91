"""One suite for every database: the end of a task, and of a batch, makes its messages to webhooks in the same commit, each once."""

from __future__ import annotations

import asyncio
import json

from heavy.jobs.rows import Hook, NewBatch
from heavy.jobs.stores import JobStores
from heavy.turns.rows import Note, SessionEvent
from tests.support.tasks import end, new_task, pick, submit
from tests.support.turns import talk
from tests.support.webhooks import add, all_of, close, receiver

ALL = ("task.completed", "task.failed", "task.cancelled", "batch.completed")


async def hook(stores: JobStores, *events: str) -> Hook:
    """The webhook of a request."""
    return Hook(await stores.webhooks.ensure("acme", receiver("own")), events or ALL)


async def told(stores: JobStores) -> list[tuple[str, str, str | None]]:
    return sorted((d.type, d.webhook_id, d.session_id) for d in await all_of(stores))


async def test_a_tasks_end_is_told_once(stores: JobStores, other_stores: JobStores) -> None:
    own, registered = await hook(stores), await add(stores, events=("task.failed",))
    await talk(stores, "t_turn")
    await submit(stores, "t_1", session_id="s1", hook=own)
    await pick(stores)
    ends = [s.tasks.end("acme", [end("t_1", "failure", kind="task.failed")]) for s in (stores, other_stores) * 3]
    await asyncio.gather(*ends)
    assert await told(stores) == sorted([("task.failed", w, "s1") for w in (own.webhook_id, registered.webhook_id)])


async def test_names_decide_who_hears(stores: JobStores) -> None:
    own, registered = await hook(stores, "task.failed"), await add(stores, events=("task.completed",))
    await talk(stores, "t_turn")
    for task_id in ("t_1", "t_2", "t_3"):
        await submit(stores, task_id, session_id="s1", hook=own if task_id != "t_3" else None)
    ends = [end("t_1", "failure", kind="task.failed"), end("t_2", kind="task.completed"), end("t_3", "failure", kind="task.failed")]
    await stores.tasks.end("acme", ends)
    await stores.tasks.end("acme", ends)
    assert await told(stores) == [("task.completed", registered.webhook_id, "s1"), ("task.failed", own.webhook_id, "s1")]
    assert {json.loads(d.data)["task_id"] for d in await all_of(stores)} == {"t_1", "t_2"}
    assert len(await stores.sessions.events("acme", "s1", after=0, limit=9)) == 3


async def test_a_task_without_a_session_is_told_too(stores: JobStores) -> None:
    own = await hook(stores)
    await submit(stores, "t_1", hook=own)
    await stores.tasks.end("acme", [end("t_1", "cancelled", kind="task.cancelled")])
    assert await told(stores) == [("task.cancelled", own.webhook_id, "s_t_1")]


async def test_the_end_of_a_batch_is_told_once(stores: JobStores, other_stores: JobStores) -> None:
    own, registered = await hook(stores, "batch.completed"), await add(stores, events=("batch.completed",))
    items = [new_task(f"t_{n}", batch_id="b_1", position=n, lane="batch", hook=own) for n in range(6)]
    await stores.tasks.submit_batch(NewBatch("acme", "b_1", own), items)
    for n in range(5):
        await stores.tasks.end("acme", [end(f"t_{n}", kind="task.completed")])
    assert await told(stores) == []
    await asyncio.gather(*(s.tasks.end("acme", [end("t_5", kind="task.completed")]) for s in (stores, other_stores) * 3))
    assert sorted(await told(stores)) == sorted([("batch.completed", w, None) for w in (own.webhook_id, registered.webhook_id)])
    assert {d.data for d in await all_of(stores)} <= {
        '{"batch_id":"b_1","total":6,"rejected":0}',
        '{"batch_id" : "b_1", "total" : 6, "rejected" : 0}',
    }


async def test_a_batch_of_broken_items_is_told_at_once(stores: JobStores) -> None:
    own = await hook(stores)
    items = [new_task(f"t_{n}", batch_id="b_1", position=n, lane="batch", hook=own, error={"detail": "broken"}) for n in range(2)]
    await stores.tasks.submit_batch(NewBatch("acme", "b_1", own), items)
    await stores.tasks.submit_batch(NewBatch("acme", "b_1", own), items)
    assert await told(stores) == [("batch.completed", own.webhook_id, None)]


async def test_a_deleted_session_may_finish_a_batch(stores: JobStores) -> None:
    own = await hook(stores)
    items = [new_task(f"t_{n}", session_id="s1", batch_id="b_1", position=n, lane="batch", hook=own) for n in range(2)]
    await stores.tasks.submit_batch(NewBatch("acme", "b_1", own), items)
    await talk(stores, "t_0")
    await stores.tasks.end("acme", [end("t_0", kind="task.completed")])
    assert await told(stores) == [("task.completed", own.webhook_id, "s1")]
    await stores.sessions.delete("acme", "s1")
    assert await told(stores) == [("batch.completed", own.webhook_id, None)]  # what held words of the session is gone


async def test_a_requests_webhook_hears_of_its_session_where_it_wants_to(stores: JobStores) -> None:
    """Once for each event, however many tasks of the session name the webhook; not of other sessions, not without being asked."""
    own = await hook(stores, "task.completed", "session.closed", "session.message")
    await close(stores, "s1", "session.closed")
    for task_id in ("t_1", "t_2"):
        await submit(stores, task_id, session_id="s1", hook=own)
    await submit(stores, "t_3", session_id="s2", hook=Hook(own.webhook_id, ("task.completed",)))
    assert await told(stores) == []
    for session_id in ("s1", "s2"):
        await close(stores, session_id, "session.closed", "session.transferred")
    assert await told(stores) == [("session.closed", own.webhook_id, "s1")]
    await stores.sessions.note(Note("acme", "s1", events=[SessionEvent("session.message", {"session_id": "s1"})]))
    await stores.sessions.note(Note("acme", "s2", events=[SessionEvent("session.message", {"session_id": "s2"})]))
    assert [t for t, *_ in await told(stores)] == ["session.closed", "session.message"]
