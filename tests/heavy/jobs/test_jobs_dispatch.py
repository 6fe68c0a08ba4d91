"""Tasks run in slots of their own: picked when due, ended once with what their turn says, tried again, given back, never in the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from common.contracts.ticket import Plan
from common.errors import BudgetExceeded, LoadsplitError, RateLimited
from common.hotstore.memory import MemoryHotStore
from heavy.jobs import dispatch, settle
from heavy.jobs.dispatch import Dispatcher
from heavy.jobs.rows import NewBatch
from heavy.jobs.stores import JobStores
from heavy.turns import run
from heavy.turns.rows import TurnRow
from tests.support.job_node import JobNode, job_node
from tests.support.node import node
from tests.support.tasks import new_task
from tests.support.turns import accept, answer, fence_of
from tests.support.waiting import wait_until


async def events(here: JobNode, session: str = "s1") -> list[tuple[str, str]]:
    return [(e.type, e.data["task_id"]) for e in await here.stores.sessions.events("acme", session, after=0, limit=99)]


async def test_a_due_task_becomes_the_turn_of_its_id(here: JobNode) -> None:
    await here.submit("t_1", "hello there", session_id="s1")
    assert await here.dispatcher.look(deep=False) == 1
    task = await here.until("t_1", "success")
    assert task.turn is not None
    assert task.turn.reply is not None
    assert (task.turn.reply["message"], task.turn.reply["turn_id"]) == ("you said hello there", "t_1")
    assert (task.attempts, task.owner) == (1, None)
    assert await events(here) == [("task.completed", "t_1")]
    stored = await here.stores.sessions.events("acme", "s1", after=0, limit=9)
    assert stored[0].data["result"] == task.turn.reply
    assert here.outcome("success") == 1


async def test_as_many_run_as_there_are_slots(stores: JobStores, hotstore: MemoryHotStore) -> None:
    async with job_node(stores, hotstore, slots=3) as here:
        here.gateway.open.clear()
        for n in range(5):
            await here.submit(f"t_{n}")
        assert await here.dispatcher.look(deep=True) == 3
        assert (here.dispatcher.room("task"), await here.dispatcher.look(deep=True)) == (0, 0)
        interactive = await here.say("t_x", session="mine")  # it has no slot and waits for none
        assert not isinstance(interactive, TurnRow)
        await here.talking(interactive)
        async with here.running():
            here.gateway.open.set()
            for n in range(5):
                await here.until(f"t_{n}", "success")
        assert here.dispatcher.room("task") == 3


async def test_no_slots_run_nothing(stores: JobStores, hotstore: MemoryHotStore) -> None:
    async with job_node(stores, hotstore, slots=0) as here:
        await here.submit("t_1")
        assert await here.dispatcher.look(deep=True) == 0


async def test_batches_get_half_of_the_slots_and_come_second(stores: JobStores, hotstore: MemoryHotStore) -> None:
    async with job_node(stores, hotstore, slots=4) as here:
        here.gateway.open.clear()
        request = {"message": "hi", "user_id": None, "context": {}}
        items = [new_task(f"t_b{n}", lane="batch", batch_id="b", position=n, request=request) for n in range(6)]
        await here.stores.tasks.submit_batch(NewBatch("acme", "b"), items)
        for n in range(3):
            await here.submit(f"t_{n}")
        assert await here.dispatcher.look(deep=True) == 4
        lanes = [(await here.task(t)).status for t in ("t_0", "t_1", "t_2", "t_b0", "t_b1")]
        assert lanes == ["running"] * 4 + ["pending"]
        async with here.running():
            here.gateway.open.set()
            for n in range(6):
                await here.until(f"t_b{n}", "success")
        batch = await here.stores.tasks.batch("acme", "b")
        assert batch is not None
        assert batch.counts == {"success": 6}


async def test_a_busy_node_takes_no_batch(stores: JobStores, hotstore: MemoryHotStore) -> None:
    async with job_node(stores, hotstore, slots=4, max_inflight=4) as here:
        here.gateway.open.clear()
        assert here.dispatcher.room("batch") == 2
        for n in range(2):
            await here.say(f"t_x{n}", session=f"x{n}")
        assert (here.dispatcher.room("batch"), here.dispatcher.room("task")) == (0, 2)
        here.gateway.open.set()
        await here.idle()


async def test_the_last_places_are_for_messages(here: JobNode) -> None:
    """A node of a hundred: what ninety leave is no task's, what half of it leaves is no batch's."""
    with contextlib.ExitStack() as taken:
        for most, task, batch in ((49, 8, 1), (50, 8, 0), (88, 2, 0), (90, 0, 0), (99, 0, 0)):
            while here.turns.entrance.under_way < most:
                taken.enter_context(here.turns.entrance.taken())
            assert (here.dispatcher.room("task"), here.dispatcher.room("batch")) == (task, batch)
        assert here.turns.room == 1


async def test_a_failure_that_passes_is_tried_again(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.05)
    await here.submit("t_1", "please fail", session_id="s1")
    await here.dispatcher.look(deep=False)
    await here.until("t_1", "pending")
    task = await here.task("t_1")
    assert task.turn is not None
    assert (task.attempts, task.turn.state, task.run_at) == (1, "accepted", task.turn.not_before)
    assert task.turn.error is not None
    assert task.turn.error["detail"] == "the model is down"
    assert await events(here) == []
    here.gateway.failing = False  # type: ignore[attr-defined]
    async with here.running():
        task = await here.until("t_1", "success")
    assert (task.attempts, here.outcome("retried"), here.outcome("success")) == (2, 1, 1)
    assert await events(here) == [("task.completed", "t_1")]


async def test_what_always_fails_ends_after_its_attempts_and_the_queue_moves(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.05)
    await here.submit("t_1", "please fail", session_id="s1", max_attempts=3)
    await here.submit("t_2", "hello", session_id="s1")
    async with here.running():
        await here.until("t_2", "success")
        task = await here.until("t_1", "failure")
    assert task.attempts == 3
    assert task.error is not None
    assert (task.error["code"], task.error["request_id"]) == ("llm_error", "r1")
    assert sorted(await events(here)) == [("task.completed", "t_2"), ("task.failed", "t_1")]


async def test_a_task_whose_budget_is_spent_on_the_way_waits_for_the_next(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.01)
    await here.submit("t_1", max_attempts=1)
    here.gateway.refusal = BudgetExceeded("it is spent", retry_after=3600)  # type: ignore[attr-defined]
    await here.dispatcher.look(deep=False)
    task = await here.until("t_1", "pending")
    assert task.turn is not None
    assert task.turn.not_before > time.time() + 3500
    here.gateway.refusal = BudgetExceeded("it is spent", retry_after=0)  # type: ignore[attr-defined]
    await here.submit("t_2", max_attempts=1)
    await here.dispatcher.look(deep=False)
    await here.until("t_2", "pending")
    here.gateway.refusal = None  # type: ignore[attr-defined]
    async with here.running():
        await here.until("t_2", "success")


async def test_a_task_for_an_agent_that_is_gone_fails(here: JobNode) -> None:
    await here.submit("t_1", agent_id="gone")
    await here.dispatcher.look(deep=False)
    task = await here.until("t_1", "failure")
    assert task.error is not None
    assert (task.error["code"], task.error["field"], task.turn) == ("invalid_request", "agent_id", None)


async def test_a_full_node_gives_a_task_back(here: JobNode) -> None:
    await here.submit("t_1")
    here.turns.entrance.limit.now = 0
    here.dispatcher.room = lambda lane: 1  # type: ignore[method-assign] # as if another turn had come in between
    await here.dispatcher.look(deep=False)
    await here.until("t_1", "pending")
    del here.dispatcher.room  # type: ignore[method-assign]
    here.turns.entrance.limit.now = 100
    assert (await here.task("t_1")).attempts == 0
    assert here.dispatcher.room("task") == 0  # it rests a moment
    assert await here.dispatcher.look(deep=True) == 0


@pytest.mark.parametrize("refusal", [RateLimited("too many turns", retry_after=30), BudgetExceeded("it is spent", retry_after=30)])
async def test_at_a_limit_of_its_tenant_a_task_waits(here: JobNode, refusal: LoadsplitError) -> None:
    here.closed["acme"] = refusal
    task = await here.submit("t_1")
    await here.submit("t_2", tenant="other")
    assert await here.dispatcher.look(deep=False) == 2
    await here.until("t_1", "pending")
    again = await here.task("t_1")
    assert 25 < again.run_at - task.created_at < 35
    assert (again.attempts, again.error) == (0, None)
    assert here.dispatcher.room("task") >= 7  # the others' tasks go on
    here.closed.clear()


async def test_what_a_rule_answers_asks_no_model(here: JobNode) -> None:
    """Also where the tenant has spent its budget. In a conversation the skill has the word, as ever."""
    here.plans["opening hours"] = Plan("flow", "hours", "opening hours")
    here.closed["acme"] = BudgetExceeded("it is spent", retry_after=30)
    await here.submit("t_1", "opening hours", session_id="s1")
    await here.submit("t_2", "something else", session_id="s2")
    assert await here.dispatcher.look(deep=False) == 2
    task = await here.until("t_1", "success")
    assert task.turn is not None
    assert task.turn.reply is not None
    assert task.turn.reply["message"] == "We open at 9."
    assert task.turn.reply["route"] == {
        "tier": "heavy",
        "action_type": "flow",
        "action_target": "hours",
        "matched_by": "rule",
        "pattern": "opening hours",
    }
    assert task.turn.reply["usage"]["llm_calls"] == 0
    assert here.gateway.requests == []
    assert (await here.until("t_2", "pending")).turn is None


async def test_a_task_is_given_to_the_node_that_has_room(stores: JobStores, hotstore: MemoryHotStore) -> None:
    async with job_node(stores, hotstore, slots=0) as full, job_node(stores, hotstore, slots=2) as free, free.running():
        await wait_until(lambda: len(hotstore._channels) == 1, "the free node listens")
        await full.submit("t_1")
        await full.dispatcher.hint("task")
        await full.until("t_1", "success")


async def test_a_drained_node_takes_nothing(here: JobNode) -> None:
    await here.submit("t_1")
    here.turns.entrance.close()
    assert await here.dispatcher.look(deep=True) == 0
    here.turns.entrance.closed = False


async def test_a_task_whose_turn_is_another_nodes_is_left_to_it(stores: JobStores, hotstore: MemoryHotStore, here: JobNode) -> None:
    async with node(stores, hotstore) as other:
        other.gateway.open.clear()
        await here.submit("t_1", session_id="s1")
        (task,) = await here.stores.tasks.pick("task", owner="dead", lease_seconds=-1, limit=1, depth=9)
        await other.say("t_1", "hello", session="s1")
        assert await here.settling.sweep() == 0  # it runs
        other.gateway.open.set()
        await other.idle()
        assert (await here.task("t_1")).status == "running"
        assert await here.settling.sweep() == 1
        assert (await here.task("t_1")).status == "success"
        assert await here.settling.sweep() == 0
        assert await events(here) == [("task.completed", "t_1")]
        assert not await here.settling.settle(replace(task, turn=(await here.task("t_1")).turn))


async def test_what_never_became_a_turn_is_given_back(here: JobNode) -> None:
    await here.submit("t_1")
    await here.stores.tasks.pick("task", owner="dead", lease_seconds=-1, limit=1, depth=9)
    await here.settling.sweep()
    task = await here.task("t_1")
    assert (task.status, task.attempts, task.owner) == ("pending", 0, None)


async def test_a_turn_that_awaits_an_approval_takes_no_slot(here: JobNode) -> None:
    await here.submit("t_1", session_id="s1")
    await here.stores.tasks.pick("task", owner="dead", lease_seconds=-1, limit=1, depth=9)
    turn = (await accept(here.stores, "t_1")).turn
    asked = {"calls": [], "decisions": {}}
    usage = turn.usage
    await here.stores.turns.pause(fence_of(turn), first_idx=1, messages=[], usage=usage, approval=asked, reply={}, events=[])
    await here.settling.sweep()
    task = await here.task("t_1")
    assert (task.status, task.owner) == ("running", None)
    assert await here.settling.sweep() == 0
    values = {"owner": "x", "lease_seconds": 10.0, "events": [], "resume": True}
    row = await here.stores.turns.decide("acme", "t_1", before=asked, approval={"calls": [], "decisions": {"a": 1}}, **values)  # type: ignore[arg-type]
    assert row is not None
    claimed = await here.stores.turns.claim("acme", "t_1", owner="x", lease_seconds=10)
    assert claimed is not None
    await here.stores.turns.finish(fence_of(claimed), answer())
    await here.settling.sweep()
    assert (await here.task("t_1")).status == "success"


async def test_a_turn_that_has_ended_without_its_task_is_found_by_the_next_attempt(here: JobNode) -> None:
    """The turn was cancelled while it was put off."""
    await here.submit("t_1", session_id="s1")
    turn = (await accept(here.stores, "t_1")).turn
    usage = turn.usage
    await here.stores.turns.postpone(fence_of(turn), first_idx=1, messages=[], usage=usage, error={}, delay_seconds=0)
    await here.stores.turns.cancel("acme", "t_1")
    await here.dispatcher.look(deep=False)
    await here.until("t_1", "cancelled")


async def test_waiting_and_running_tasks_are_cancelled(here: JobNode) -> None:
    here.gateway.open.clear()
    await here.submit("t_late", delay_seconds=60)
    await here.submit("t_runs", session_id="s1")
    await here.dispatcher.look(deep=False)
    await wait_until(lambda: here.owner.get("t_runs") is not None, "the task runs")
    for task_id in ("t_late", "t_runs"):
        await here.settling.ask_to_cancel(await here.task(task_id))
    assert (await here.task("t_late")).status == "cancelled"
    await here.until("t_runs", "cancelled")
    assert await events(here) == [("task.cancelled", "t_runs")]
    assert here.outcome("cancelled") == 2
    assert here.gateway.closed == 1


async def test_a_task_that_is_put_off_is_cancelled_with_its_turn(here: JobNode) -> None:
    await here.submit("t_1", "please fail", session_id="s1")
    await here.dispatcher.look(deep=False)
    await here.until("t_1", "pending")
    await here.settling.ask_to_cancel(await here.task("t_1"))
    task = await here.task("t_1")
    assert task.turn is not None
    assert (task.status, task.turn.state) == ("cancelled", "cancelled")


async def test_a_task_that_is_about_to_begin_is_cancelled_by_the_sweep(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await here.submit("t_1", session_id="s1")
    (task,) = await here.stores.tasks.pick("task", owner=here.owner.name, lease_seconds=10, limit=1, depth=9)
    await here.settling.ask_to_cancel(task)
    assert (await here.task("t_1")).cancel_requested
    assert await here.settling.sweep() == 0
    here.gateway.open.clear()
    seen = asyncio.create_task(here.dispatcher._see_through(task))
    await wait_until(lambda: here.owner.get("t_1") is not None, "the turn runs")
    await here.settling.sweep()
    await seen
    assert (await here.task("t_1")).status == "cancelled"


async def test_a_key_that_was_a_querys_meanwhile_runs_nothing(here: JobNode) -> None:
    await here.submit("t_1", session_id="s1", fingerprint="f")
    await here.say("t_1", "another thing", session="s1")
    await here.idle()
    await here.dispatcher.look(deep=False)
    task = await here.until("t_1", "failure")
    assert task.error is not None
    assert task.error["code"] == "idempotency_mismatch"


async def test_figures_are_read(here: JobNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "EVERY_SECONDS", 0.01)
    await here.submit("t_1")
    work = asyncio.create_task(here.settling.run())
    await wait_until(lambda: here.metrics.tasks_waiting.labels("task").value == 1, "the gauge tells of it")
    work.cancel()
    await asyncio.wait([work])
    assert isinstance(here.dispatcher, Dispatcher)
