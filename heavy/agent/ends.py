"""The ends of a run that are errors. Everything else that ends a run is a RunEnd."""

from __future__ import annotations

from collections.abc import Collection

from common.endpoints.answer import CompiledAction
from common.errors import LoadsplitError
from heavy.llm.types import LLMError

DIRECT = "*"  # among doubtful call ids: the turn's action itself, which was begun without a call in the transcript


class BadToolCalls(LLMError):
    """The model kept making tool calls that cannot be executed, though it was told twice what was wrong. `partial` is what it had said."""

    retryable = False

    def __init__(self, detail: str, *, partial: str = "") -> None:
        super().__init__(detail)
        self.partial = partial


class InDoubt(LoadsplitError):
    """A call that must not be made twice was interrupted, and may have been made. `extra["step"]` names it; it was not repeated."""

    code, status, title = "upstream_error", 502, "The outcome of a step is not known"


def once_only(action: CompiledAction) -> bool:
    """Whether the file says that the action's call must not be made twice, not even under the same idempotency key."""
    return action.endpoint is not None and action.endpoint.idempotent is False


def refuse_doubtful(action: CompiledAction, call_id: str | None, doubtful: Collection[str]) -> None:
    """Raises InDoubt for a call that may have been made by an earlier attempt of the turn and must not be made twice."""
    if once_only(action) and (call_id or DIRECT) in doubtful:
        detail = f"{action.name} was interrupted and may have been executed; it was not repeated: look there before you ask for it again"
        raise InDoubt(detail, step={"action_type": action.kind, "action_target": action.id, "call_id": call_id})
