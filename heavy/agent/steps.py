"""What a run yields, item by item. The caller turns these into events and commits; a run knows of neither.

Usage is always an increment: the sum over every Step and the last item is what the run cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.contracts.query import Usage
from heavy.llm.types import Message, ToolCall

Reason = Literal[
    "answered",
    "done",
    "max_iterations",
    "repeated_call",
    "silent",
    "ended",
    "awaiting_approval",
    "limit:tool_calls",
    "limit:tokens",
    "limit:cost_usd",
    "limit:seconds",
]


@dataclass(frozen=True, slots=True)
class Delta:
    """Text for the user, live. All deltas of a run concatenate to its final text (on a resumed run: what follows `said_before`)."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool call is about to be executed. `arguments` are the parsed ones; they hold no context variable."""

    call: ToolCall
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool call was executed and its result committed. `result` is a JSON value; `ok` false means it is {"error": …}."""

    call: ToolCall
    ok: bool
    result: Any
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Routed:
    """What answers, where that is known only while the model works: comes once, before the first call or text."""

    kind: Literal["flow", "tool", "skill", "system", "message"]
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Commit these transcript messages now: the caller does so before it asks for the next item."""

    messages: tuple[Message, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A call that a person must approve before it is executed. `arguments` are the parsed ones."""

    call: ToolCall
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """What a person decided on a call. `by` is who (`user`, `operator` or a name), `reason` a word of theirs for the model."""

    approved: bool
    by: str = "operator"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    `text` is all text that the user saw in it. `done`: the task is finished; `open`: the model answered but still waits for the
    user (no `done` call though one was required). `messages` and `usage` are what no Step has carried yet. The reason `ended` says that a
    call ended the run itself (a silent action, a hand-off); with `awaiting_approval` it has only paused, for the calls in `held`.
    """

    text: str
    done: bool
    reason: Reason
    open: bool = False
    messages: tuple[Message, ...] = ()
    usage: Usage = field(default_factory=Usage)
    held: tuple[HeldCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """Always the last item of a run, unless it raised."""

    end: RunEnd


RunStep = Delta | ToolStarted | ToolEnded | Step | Ended
