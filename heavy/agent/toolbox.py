"""A toolbox: the tools that a model may call in a run, the check of what it asks for, and the results in the form a model reads.

How a tool is executed is the `run` function's business; this file knows no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from common.telemetry.tracing import current_span
from heavy.agent.tool_schema import Arguments
from heavy.llm.types import Message, ToolCall, ToolSpec

MAX_RESULT_CHARS = 20_000
MAX_TOOLS = 127  # providers take 128 in one request; `done` is one of them


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave: a JSON value. A failure is {"error": one safe sentence} with `ok` false. `shown` is an answer in finished words
    that the user is to read as it stands."""

    ok: bool
    value: Any
    duration_ms: float = 0.0
    shown: str = ""


class Check(Protocol):
    """Checks the arguments of one tool."""

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments that a model wrote. Raises ValueError with a sentence for the model."""


ToolRunner = Callable[[ToolCall, Mapping[str, Any]], Awaitable[ToolResult]]


def failed(reason: str) -> ToolResult:
    """A failure as the model and the user's stream see it."""
    return ToolResult(False, {"error": reason})


def is_failure(message: Message) -> bool:
    """Whether a committed result says that its call failed or was not executed."""
    return message.author is None and message.content.startswith('{"error":')


def for_model(value: Any, limit: int = MAX_RESULT_CHARS) -> str:
    """A result as the text of a tool message, at most `limit` characters and a note of what was cut."""
    text = value if isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … [cut here: the result has {len(text)} characters]"


def for_user(value: Any, limit: int = MAX_RESULT_CHARS) -> Any:
    """A result as it goes into the stream: itself, or its cut text where it is too large."""
    text = for_model(value, limit)
    return value if len(text) <= limit else text


class Toolbox:
    """The tools of one run. `run` executes a checked call; it raises nothing that a tool's own failure can cause.

    A call of a tool in `approval` is executed only after a person has approved that very call. One of a tool in `ending` ends the run when
    it succeeds.
    """

    def __init__(
        self,
        specs: Sequence[ToolSpec] = (),
        run: ToolRunner | None = None,
        checks: Mapping[str, Check] | None = None,
        *,
        approval: Collection[str] = (),
        ending: Collection[str] = (),
    ) -> None:
        self.specs = tuple(specs)
        self.approval, self.ending = frozenset(approval), frozenset(ending)
        self._run = run
        self._checks: Mapping[str, Check] = checks if checks is not None else {s.name: Arguments(s.name, s.parameters) for s in self.specs}

    def with_runner(self, run: ToolRunner) -> Toolbox:
        """The same tools, executed by another function."""
        return Toolbox(self.specs, run, self._checks, approval=self.approval, ending=self.ending)

    def beside(self, other: Toolbox) -> Toolbox:
        """These tools and another toolbox's, as many of those as there is room for; of two with one name, this one's."""
        if not other._checks:
            return self
        mine = self._checks.keys()

        async def run(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
            return await (self if call.name in mine else other).run(call, arguments)

        return Toolbox(
            (*self.specs, *[s for s in other.specs if s.name not in mine][: max(0, MAX_TOOLS - len(self.specs))]),
            run,
            {**other._checks, **self._checks},
            approval=self.approval | (other.approval - mine),
            ending=self.ending | (other.ending - mine),
        )

    def parse(self, call: ToolCall) -> dict[str, Any]:
        """The arguments of a call that may be executed. Raises ValueError with a sentence that tells the model what is wrong."""
        check = self._checks.get(call.name)
        if check is None:
            names = ", ".join(s.name for s in self.specs) or "none"
            raise ValueError(f"there is no tool {call.name[:64]!r}; the tools are: {names}")
        return check.parse(call.arguments)

    async def run(self, call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        """Executes a checked call and measures it."""
        if self._run is None:
            return failed("this tool cannot be executed")
        start, began = time.perf_counter(), time.time()
        result = await self._run(call, arguments)
        done = replace(result, duration_ms=round((time.perf_counter() - start) * 1000, 1))
        current_span().child(
            f"execute_tool {call.name}",
            began=began,
            seconds=done.duration_ms / 1000,
            kind="internal",
            error=None if done.ok else "tool_failed",
            attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name, "gen_ai.tool.call.id": call.id},
        )
        return done
