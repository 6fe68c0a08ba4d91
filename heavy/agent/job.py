"""What an agent run is given: the task, the conversation, and the bounds. It holds data only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.contracts.query import Usage
from common.workflow.schema import Limits
from heavy.agent.steps import ApprovalDecision
from heavy.llm.types import Message


@dataclass(frozen=True, slots=True)
class Job:
    """One run over one turn.

    `transcript` holds the committed messages of this turn, the user's first; the run's own begin at `begins`, what stands before was
    another run's. `history` are earlier turns. `notes` is awaited once, just before the first model call; its text stands behind `system`.

    `done`: whether the model must end its task with the tool `done`, may do so, or has no such tool. `ends_when_shown`: a round whose
    results the user has read all ends the run. `fallback` is said when a bound ends the run and the model gives no closing words.

    `decisions` are those of persons, by call id. `spent` is what earlier attempts have used and `began` when the first began (Unix
    seconds): both count against `limits`. `deadline` is Unix seconds.
    """

    system: str
    transcript: Sequence[Message]
    model: str
    max_iterations: int
    history: Sequence[Message] = ()
    begins: int = 1
    notes: Callable[[], Awaitable[str]] | None = None
    done: Literal["required", "offered", "none"] = "none"
    ends_when_shown: bool = False
    fallback: str = ""
    streaming: bool = True
    purpose: str = "skill"
    compaction_model: str | None = None
    decisions: Mapping[str, ApprovalDecision] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    spent: Usage = field(default_factory=Usage)
    began: float | None = None
    deadline: float | None = None
