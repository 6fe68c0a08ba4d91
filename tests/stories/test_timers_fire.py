"""Timers: armed when a turn ends, cancelled by the next message, fired once whatever the number of replicas, also after kill -9."""

from __future__ import annotations

import time
from typing import Any

from tests.support.client import Client
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def told(client: Client, session: str) -> list[str]:
    return [text for role, text in client.messages(session) if role == "assistant"]


def status(client: Client, session: str) -> str:
    return str(client.call("GET", f"/api/v1/session/{session}").json["workflow_state"]["status"])


def test_the_chain(desks: Client) -> None:
    desks.ask("tell me a story", "timer-1", agent_id="timed")
    wait_until_sync(lambda: status(desks, "timer-1") == "closed", "the chain ends", 15)
    assert told(desks, "timer-1") == ["Plain words.", "Still there?", "I close this now."]
    stream = desks.get_stream("/api/v1/session/timer-1/events")
    seen: list[tuple[str, Any]] = [(e.type, e.data) for e in stream.take(3)]
    stream.close()
    assert [(t, d.get("from"), d.get("timer_id")) for t, d in seen] == [
        ("session.message", "timer", "still"),
        ("session.message", "timer", "end"),
        ("session.closed", None, None),
    ]
    assert seen[2][1]["by"] == "timer"


def test_a_rule_answered_turn_arms_them_too(desks: Client) -> None:
    assert desks.ask("opening hours", "timer-2", agent_id="timed").json["route"]["tier"] == "lightweight"
    wait_until_sync(lambda: "Still there?" in told(desks, "timer-2"), "the first timer fires", 15)


def test_a_message_cancels_them(desks: Client) -> None:
    until = time.monotonic() + 3.5
    while time.monotonic() < until:  # never silent for as long as the timer waits
        desks.ask("opening hours", "timer-3", agent_id="patient")
        began = time.monotonic()
        wait_until_sync(lambda began=began: time.monotonic() - began > 0.2, "a moment passes")
    assert "Still there?" not in told(desks, "timer-3")
    wait_until_sync(lambda: "Still there?" in told(desks, "timer-3"), "then it fires", 15)


def test_once_and_after_kill(desks_split: Split) -> None:
    """Every process is killed while timers are armed; started again, both replicas see them due and each fires once."""
    client = desks_split.client
    sessions = [f"timer-4-{n}" for n in range(8)]
    for session in sessions:
        client.ask("tell me a story", session, agent_id="timed")
    for process in (desks_split.lightweight, *desks_split.heavy):
        process.kill()
    for process in (desks_split.lightweight, *desks_split.heavy):
        process.start()
    for session in sessions:
        wait_until_sync(lambda session=session: status(client, session) == "closed", "the chain goes on to its end", 30)
        assert told(client, session) == ["Plain words.", "Still there?", "I close this now."]
