"""Timers are a chain in the order of the file; a timer's turn has the same id on every replica."""

from __future__ import annotations

from dataclasses import replace

from common.workflow.load import load_text
from heavy.turns import timers
from heavy.turns.rows import ArmTimer, TimerRow

WORKFLOW = load_text(
    """{"agent_id": "shop", "skills": [{"skill_id": "talk", "description": "Talk", "execution_mode": "agent"}],
    "timers": [{"timer_id": "nudge", "delay_seconds": 300, "message": "Still there?"},
               {"timer_id": "help", "delay_seconds": 90, "action_type": "skill", "action_target": "talk"}]}"""
)
ROW = TimerRow("acme", "s1", "shop", "timer", "nudge", 0, 4, 1000.0)


def test_the_chain() -> None:
    assert timers.first_timer(WORKFLOW) == ArmTimer("timer", "nudge", 300, 0)
    assert timers.timer_after(WORKFLOW, 0) == ArmTimer("timer", "help", 90, 1)
    assert timers.timer_after(WORKFLOW, 1) is None
    bare = load_text('{"agent_id": "bare"}')
    assert timers.first_timer(bare) is None


def test_a_timer_is_found_by_its_name() -> None:
    found = timers.named(WORKFLOW, "help")
    assert found is not None
    assert (found[0], found[1].delay_seconds) == (1, 90)
    assert timers.named(WORKFLOW, "gone") is None


def test_the_turn_of_a_timer() -> None:
    assert timers.turn_id(ROW) == timers.turn_id(replace(ROW, due_at=2000.0, position=1))
    others = [
        replace(ROW, seq=5),
        replace(ROW, timer_id="help"),
        replace(ROW, session_id="s2"),
        replace(ROW, tenant="b"),
        replace(ROW, kind="handoff"),
    ]
    assert len({timers.turn_id(r) for r in (ROW, *others)}) == 6
    nudge, help_ = WORKFLOW.timers
    assert timers.request(nudge, 0) == {
        "timer_id": "nudge", "position": 0, "action_type": "message", "action_target": None, "message": "Still there?",
    }  # fmt: skip
    assert timers.note(nudge) is None
    assert "90 seconds" in (timers.note(help_) or "")
