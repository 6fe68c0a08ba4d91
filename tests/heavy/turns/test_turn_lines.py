"""The log line of a turn's end: one for each turn, however it ends, with the database's figures and nobody's words."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from heavy.turns.owner import OwnedTurn
from tests.support.node import Node


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "heavy.turns.lines")
    return caplog


def lines(heard: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """What was told, by turn id; each turn once."""
    told = [vars(r) for r in heard.records if r.getMessage() == "turn ended"]
    assert len({line["turn_id"] for line in told}) == len(told)
    return {line["turn_id"]: line for line in told}


async def test_a_good_end(here: Node, heard: pytest.LogCaptureFixture) -> None:
    await here.say("t_1", "a very private message")
    await here.idle()
    row, line = await here.row("t_1"), lines(heard)["t_1"]
    assert row.finished_at is not None
    assert row.started_at is not None
    assert line["ms"] == round((row.finished_at - row.started_at) * 1000, 3)
    assert (line["status"], line["code"], line["attempt"], line["session_id"], line["tenant"]) == ("done", None, 1, "s1", "acme")
    assert (line["action_type"], line["action_target"], line["tool_calls"]) == ("skill", "talk", 0)
    assert (line["llm_calls"], line["output_tokens"]) == (row.usage.llm_calls, row.usage.output_tokens)
    assert "private" not in str(line)


async def test_a_failure_has_its_code_and_a_call_is_counted(here: Node, heard: pytest.LogCaptureFixture) -> None:
    here.gateway.failures = 1
    await here.say("t_1", streaming=False)
    await here.idle()
    here.gateway.calls = 1
    await here.say("t_2")
    await here.idle()
    found = lines(heard)
    assert (found["t_1"]["status"], found["t_1"]["code"], found["t_1"]["action_type"]) == ("failed", "llm_error", None)
    assert (found["t_2"]["status"], found["t_2"]["llm_calls"]) == ("done", 2)


async def test_what_never_ran_is_told_too(here: Node, heard: pytest.LogCaptureFixture) -> None:
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    await here.say("t_2")
    late = await here.say("t_3", deadline=time.time() + 0.1)
    assert isinstance(late, OwnedTurn)
    await late.events.wait_end()
    await here.stores.turns.cancel("acme", "t_2")
    await here.owner.cancel_anywhere("t_2", "cancelled")
    await here.events("t_2")
    here.gateway.open.set()
    await here.idle()
    found = lines(heard)
    assert {turn_id: line["status"] for turn_id, line in found.items()} == {"t_1": "done", "t_2": "cancelled", "t_3": "cancelled"}
    assert found["t_2"]["llm_calls"] == 0


async def test_a_cancelled_turn(here: Node, heard: pytest.LogCaptureFixture) -> None:
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    await here.stores.turns.cancel("acme", "t_1")
    await here.owner.cancel_anywhere("t_1", "enough")
    await here.idle()
    assert lines(heard)["t_1"]["status"] == "cancelled"
