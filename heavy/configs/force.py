"""What may become of an agent's state, as pure functions: activation, canary, rollback. Who asks and how it is stored is not known here."""

from __future__ import annotations

from dataclasses import replace

from common.errors import Conflict, InvalidRequest
from heavy.configs.stores import Action, AgentRow


def activated(before: AgentRow, version: int, percent: float | None) -> tuple[AgentRow, Action]:
    """The agent with that version in force: for all sessions, or for `percent` of them as the canary. Raises InvalidRequest, Conflict."""
    if percent is None or percent >= 100:
        return _whole(before, version), "activate"
    if not percent > 0:
        raise InvalidRequest("canary_percent must be a number above 0 and at most 100", field="canary_percent")
    if before.active is None:
        raise Conflict("no version is active yet: a canary needs one to be compared with")
    if before.active == version:
        raise Conflict(f"version {version} is active already: it cannot be its own canary")
    return replace(before, canary=version, percent=float(percent)), "canary"


def rolled_back(before: AgentRow) -> tuple[AgentRow, int]:
    """The agent without its canary, or else with the version before in force; and the version that is taken out. Raises Conflict."""
    if before.canary is not None:
        return replace(before, canary=None, percent=0.0), before.canary
    if before.active is None or before.previous is None:
        raise Conflict("there is no version to go back to: activate one by its number")
    return replace(before, active=before.previous, previous=None, canary=None, percent=0.0), before.active


def _whole(before: AgentRow, version: int) -> AgentRow:
    previous = before.previous if before.active == version else before.active
    return replace(before, active=version, canary=None, percent=0.0, previous=previous)
