"""What the end of a turn means for its session beside the answer: a hand-off begins, watchers are told, the next timer is armed.

Rules only: it writes nothing and knows no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.contracts import session_events as events
from common.workflow.schema import SystemAction
from heavy.actions.compiled import CompiledWorkflow
from heavy.actions.context import ActionResult
from heavy.turns import handoff, timers
from heavy.turns.rows import ArmTimer, SessionEvent, SessionRow, TurnRow


@dataclass(frozen=True, slots=True)
class Aftermath:
    """`handoff` replaces the session's, None leaves it."""

    handoff: Mapping[str, Any] | None = None
    events: tuple[SessionEvent, ...] = ()
    timers: tuple[ArmTimer, ...] = ()


def aftermath(agent: CompiledWorkflow, session: SessionRow, row: TurnRow, result: ActionResult, said: str) -> Aftermath:
    """What follows from a turn that ends with `result`. `session` is as the turn found it, `said` what the user was told."""
    fired = row.request.get("timer")
    told: list[SessionEvent] = []
    armed: list[ArmTimer] = []
    begun: Mapping[str, Any] | None = None
    if fired and said:
        told.append(_message(row, "timer", said, timer_id=fired["timer_id"]))
    if session.status == "transferred":
        if row.approval is None:  # else the message is from before, and only its calls were approved now
            told.append(_message(row, "user", row.request["message"]))
    elif result.session_status == "transferred":
        action = agent.declared.get(("system", result.action_target or ""))
        begun, deadline, news = handoff.begin(action if isinstance(action, SystemAction) else None, row)
        told += news
        armed += [deadline] if deadline else []
    elif result.session_status == "closed":
        told.append(_event(row, events.CLOSED, by="timer" if fired else "bot"))
    elif following := timers.timer_after(agent.workflow, fired["position"] if fired else None):
        armed.append(following)
    return Aftermath(begun, tuple(told), tuple(armed))


def _message(row: TurnRow, author: str, text: str, **more: Any) -> SessionEvent:
    return SessionEvent(events.MESSAGE, {"session_id": row.session_id, "from": author, "text": text, "turn_id": row.turn_id, **more})


def _event(row: TurnRow, kind: str, **data: Any) -> SessionEvent:
    return SessionEvent(kind, {"session_id": row.session_id, "turn_id": row.turn_id, **data})


def patched(profile: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The profile after a patch, in which null removes a field."""
    return {name: value for name, value in {**profile, **patch}.items() if value is not None}
