"""Timers fire once, in a chain, after a rule's answer too; not after another message, not for what is gone; and again where a node died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heavy.jobs import timers
from heavy.jobs.timers import Timers
from heavy.turns.rows import TimerRow
from heavy.turns.stores import DatabaseUnavailable
from tests.support.in_process import InProcess, in_process
from tests.support.waiting import wait_until

SOON = 0.001
WORKFLOW: dict[str, Any] = {
    "agent_id": "shop",
    "flows": [{"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}],
    "system_actions": [
        {"action_id": "human", "handler": "handoff", "trigger_patterns": ["a human"], "response_template": "One moment."},
        {"action_id": "bye", "handler": "close", "response_template": "Goodbye."},
    ],
    "timers": [
        {"timer_id": "nudge", "delay_seconds": SOON, "message": "Still there?"},
        {"timer_id": "close", "delay_seconds": SOON, "action_type": "system", "action_target": "bye"},
    ],
}


def look_out(shop: InProcess) -> Timers:
    heavy = shop.heavy
    return Timers(heavy.stores, heavy.agents, heavy.turns, heavy.notes, heavy.mover)


async def armed(shop: InProcess) -> TimerRow:
    """The one timer that is due now; it stays due."""
    found: list[TimerRow] = []

    async def one() -> bool:
        found[:] = await shop.heavy.stores.timers.due(hold_seconds=0, limit=5)
        return len(found) == 1

    await wait_until(one, "one timer is due")
    return found[0]


async def history(shop: InProcess, session: str = "s1") -> list[str]:
    _, document = await shop.call("GET", f"/api/v1/session/{session}?include=messages")
    return [m["content"] for m in document["messages"]]


async def state(shop: InProcess) -> str:
    return (await shop.call("GET", "/api/v1/session/s1"))[1]["workflow_state"]["status"]


async def idle(shop: InProcess) -> None:
    await wait_until(lambda: len(shop.heavy.owner) == 0, "no turn runs")


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcess]:
    """A process that looks for timers only when a test says so."""
    monkeypatch.setattr(timers, "EVERY_SECONDS", 3600.0)
    async with in_process(WORKFLOW, tmp_path) as running:
        yield running


async def test_the_chain_after_a_rules_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "EVERY_SECONDS", 0.02)
    async with in_process(WORKFLOW, tmp_path) as shop, shop.events() as events:
        assert (await shop.ask("opening hours"))["route"]["tier"] == "lightweight"
        said = [await events.next() for _ in range(3)]
        assert [(kind, data.get("timer_id"), data.get("text")) for _, kind, data in said] == [
            ("session.message", "nudge", "Still there?"),
            ("session.message", "close", "Goodbye."),
            ("session.closed", None, None),
        ]
        assert said[2][2]["by"] == "timer"
        await idle(shop)
        assert await history(shop) == ["opening hours", "We open at 9.", "Still there?", "Goodbye."]
        assert await state(shop) == "closed"
        assert await shop.heavy.stores.timers.due(hold_seconds=0, limit=5) == []


async def test_it_fires_once_whoever_looks(shop: InProcess) -> None:
    await shop.ask("opening hours")
    row = await armed(shop)
    both = [look_out(shop), look_out(shop)]
    await asyncio.gather(*(one._settle(row) for one in both))  # as if both had been given it
    await idle(shop)
    assert await history(shop) == ["opening hours", "We open at 9.", "Still there?"]
    assert (await armed(shop)).timer_id == "close"


async def test_one_of_two_is_given_it(shop: InProcess) -> None:
    await shop.ask("opening hours")
    await armed(shop)
    counts = await asyncio.gather(look_out(shop).fire_due(), look_out(shop).fire_due())
    assert sorted(counts) == [0, 1]


async def test_a_node_that_died_with_it(shop: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fired the timer is due again; after that it finds its turn and only forgets it."""
    await shop.ask("opening hours")
    row = await armed(shop)
    assert await shop.heavy.stores.timers.due(hold_seconds=0.05, limit=5)  # and then it died
    await wait_until(lambda: look_out(shop).fire_due(), "it is due again")
    await idle(shop)
    assert (await history(shop))[-1] == "Still there?"
    await look_out(shop)._settle(row)
    await idle(shop)
    assert (await history(shop)).count("Still there?") == 1
    assert (await armed(shop)).timer_id == "close"


async def test_a_message_cancels_it(shop: InProcess) -> None:
    await shop.ask("opening hours")
    old = await armed(shop)
    await shop.ask("opening hours")  # still in the journal, perhaps
    await look_out(shop)._settle(old)
    await idle(shop)
    assert "Still there?" not in await history(shop)
    assert (await armed(shop)).seq == old.seq + 1


@pytest.mark.parametrize("gone", ["timer", "agent", "session"])
async def test_what_is_gone_is_forgotten(shop: InProcess, gone: str) -> None:
    await shop.ask("opening hours")
    row = await armed(shop)
    if gone == "session":
        await shop.call("DELETE", "/api/v1/session/s1")
    changed = {"timer": {"timer_id": "older"}, "agent": {"agent_id": "older"}, "session": {}}[gone]
    await look_out(shop)._settle(replace(row, **changed))
    await idle(shop)
    if gone != "session":
        assert "Still there?" not in await history(shop)
    else:
        assert (await shop.call("GET", "/api/v1/session/s1"))[0] == 404


async def test_a_session_with_a_human_is_left_alone(shop: InProcess) -> None:
    await shop.ask("opening hours")
    row = await armed(shop)
    await shop.ask("a human")
    await look_out(shop)._settle(row)
    await look_out(shop).fire_due()
    await idle(shop)
    assert "Still there?" not in await history(shop)


async def test_one_that_fails_does_not_hold_up_the_others(shop: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for session in ("s1", "s2"):
        await shop.ask("opening hours", session)
        await shop.heavy.mover.settle("default", session)
    get = shop.heavy.stores.sessions.get

    async def broken(tenant: str, session_id: str) -> Any:
        if session_id == "s1":
            raise DatabaseUnavailable("the database is away")
        return await get(tenant, session_id)

    monkeypatch.setattr(shop.heavy.stores.sessions, "get", broken)
    await wait_until(lambda: look_out(shop).fire_due(), "both are due")
    monkeypatch.setattr(shop.heavy.stores.sessions, "get", get)
    await idle(shop)
    assert "Still there?" in await history(shop, "s2")
    assert "Still there?" not in await history(shop)


async def test_a_restart_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "EVERY_SECONDS", 3600.0)
    async with in_process(WORKFLOW, tmp_path) as before:
        await before.ask("opening hours")
        await before.heavy.mover.settle("default", "s1")
    monkeypatch.setattr(timers, "EVERY_SECONDS", 0.02)
    async with in_process(WORKFLOW, tmp_path) as after:

        async def nudged() -> bool:
            return "Still there?" in await history(after)

        await wait_until(nudged, "the timer has fired")
