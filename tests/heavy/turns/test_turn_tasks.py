"""A task's turn: it is put off when a failure may pass, begins again from where it was, and fails in the end."""

from __future__ import annotations

import time

import pytest

from common.errors import Overloaded
from heavy.turns import run
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import TurnRow
from tests.support.node import Node


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that was put off may begin again at once."""
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.01)


async def attempt(here: Node, attempts: int = 3) -> TurnRow:
    """One attempt at task t_1 (its message makes one call for the intent, which fails where the gateway does)."""
    turn = await here.task("t_1", attempts=attempts)
    assert isinstance(turn, OwnedTurn)
    assert turn.task is not None
    await turn.task
    return await here.row("t_1")


async def test_a_task_is_an_ordinary_turn(here: Node) -> None:
    row = await attempt(here)
    assert (row.state, row.tries) == ("done", 0)
    again = await here.task("t_1")
    assert isinstance(again, TurnRow)
    assert again.reply == row.reply


async def test_it_is_put_off_and_goes_on(here: Node) -> None:
    here.gateway.failures = 1
    first = await attempt(here)
    assert (first.state, first.tries, first.attempt) == ("accepted", 1, 1)
    assert first.error is not None
    assert first.error["code"] == "llm_error"
    session = await here.stores.sessions.get("acme", "s1")
    assert session is not None
    assert session.active == 0
    await here.say("t_2", "meanwhile")  # nobody waits for it
    await here.idle()
    here.gateway.failures = 1
    assert (await attempt(here)).tries == 2
    last = await attempt(here)
    assert (last.state, last.tries, last.error) == ("done", 2, None)
    seen = await here.events("t_1")
    assert [n for n, _ in seen] == list(range(1, len(seen) + 1))


async def test_it_fails_after_the_last_attempt(here: Node) -> None:
    here.gateway.failures = 9
    assert (await attempt(here, attempts=2)).state == "accepted"
    last = await attempt(here, attempts=2)
    assert (last.state, last.tries) == ("failed", 1)
    assert last.error is not None
    assert last.error["retryable"] is True


async def test_it_is_not_begun_before_its_time(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FIRST_PAUSE", 60.0)
    here.gateway.failures = 1
    row = await attempt(here)
    assert 40 < row.not_before - time.time() < 80
    with pytest.raises(Overloaded):
        await here.task("t_1")


async def test_a_draining_node_takes_none(here: Node) -> None:
    await here.turns.drain(0)
    with pytest.raises(Overloaded):
        await here.task("t_1")
