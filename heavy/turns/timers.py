"""The timers of a workflow: which one is armed next, and what its turn looks like. They are a chain in the order of the file: the first is
armed when a turn ends, each of the others when the one before it has fired. It knows no clock and no store.
"""

from __future__ import annotations

import hashlib
from typing import Any

from common.workflow.schema import Timer, Workflow
from heavy.turns.rows import ArmTimer, TimerRow

_NOTE = (
    "(This is no message of the user: the user has not written for {silence}. Act on your task now. "
    "Write in the language of the conversation so far.)"
)


def first_timer(workflow: Workflow) -> ArmTimer | None:
    """The timer to arm at the end of a turn that a message began; None for a workflow without timers."""
    return timer_after(workflow, None)


def timer_after(workflow: Workflow, position: int | None) -> ArmTimer | None:
    """The timer behind the one at `position` (None: the first); None at the end of the chain."""
    following = 0 if position is None else position + 1
    if following >= len(workflow.timers):
        return None
    timer = workflow.timers[following]
    return ArmTimer("timer", timer.timer_id, timer.delay_seconds, following)


def named(workflow: Workflow, timer_id: str) -> tuple[int, Timer] | None:
    """The timer of that id and its place in this version of the workflow; None when this version has none."""
    return next(((i, t) for i, t in enumerate(workflow.timers) if t.timer_id == timer_id), None)


def turn_id(timer: TimerRow) -> str:
    """The id of the turn that a timer becomes: the same on every replica, so that it fires once."""
    place = "\0".join((timer.tenant, timer.session_id, str(timer.seq), timer.kind, timer.timer_id))
    return f"t_{hashlib.sha256(place.encode()).hexdigest()[:32]}"


def note(timer: Timer) -> str | None:
    """What stands in the user's place where a model is to answer: none speaks without being spoken to. None for everything else."""
    if timer.action_type not in ("skill", "tool") or timer.message:
        return None
    seconds = timer.delay_seconds
    return _NOTE.format(silence=f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:g} seconds")


def request(timer: Timer, position: int) -> dict[str, Any]:
    """The timer as it stands in its turn's request, so that the turn goes on with it whatever the workflow says meanwhile."""
    return {
        "timer_id": timer.timer_id,
        "position": position,
        "action_type": timer.action_type,
        "action_target": timer.action_target,
        "message": timer.message or "",
    }
