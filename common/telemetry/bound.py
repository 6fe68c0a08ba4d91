"""What a task works for: ids that every log line of it carries. Tasks that it starts inherit them."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

_BOUND: ContextVar[Mapping[str, str]] = ContextVar("loadsplit_bound", default={})  # noqa: B039 it is never written to


def bind(**ids: str) -> None:
    """From now on lines of this task carry these, such as request_id, turn_id and trace_id."""
    _BOUND.set({**_BOUND.get(), **ids})


def bind_turn(request_id: str, turn_id: str) -> None:
    """The same for the hot path, at the beginning of a task: what was bound before is forgotten."""
    _BOUND.set({"request_id": request_id, "turn_id": turn_id})


def bound() -> Mapping[str, str]:
    """What is bound here."""
    return _BOUND.get()
