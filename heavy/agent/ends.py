"""The ends of a run that are errors. Everything else that ends a run is a RunEnd."""

from __future__ import annotations

from heavy.llm.types import LLMError


class BadToolCalls(LLMError):
    """The model kept making tool calls that cannot be executed, though it was told twice what was wrong. `partial` is what it had said."""

    retryable = False

    def __init__(self, detail: str, *, partial: str = "") -> None:
        super().__init__(detail)
        self.partial = partial
