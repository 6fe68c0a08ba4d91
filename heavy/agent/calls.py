"""The tool calls of one run: which were made, which may be executed, and executing them side by side. It never talks to a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from heavy.agent.names import DONE
from heavy.agent.steps import Reason
from heavy.agent.toolbox import Toolbox, ToolResult, failed
from heavy.llm.types import Chunk, Message, ToolCall

REPEATS = 2  # rounds in a row that may make the same call; one more is a loop


class CallLog:
    """What the run has called so far, rebuilt from its transcript."""

    def __init__(self, transcript: Sequence[Message]) -> None:
        self._rounds: list[set[tuple[str, bytes]]] = []
        self._ids: set[str] = set()
        self._made = 0
        for m in transcript:
            if m.role == "assistant" and m.tool_calls:
                self.unique(m.tool_calls)

    @property
    def rounds(self) -> int:
        """Assistant messages with tool calls."""
        return len(self._rounds)

    def unique(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Registers the calls of a new assistant message. Some models use an id twice; as ids make idempotency keys and tie results
        to calls, a repeated or empty one is replaced."""
        out = []
        for call in calls:
            new, copy = call.id or "call", 1
            while new in self._ids or not new:
                copy += 1
                new = f"{call.id or 'call'}_{copy}"
            self._ids.add(new)
            out.append(call if new == call.id else replace(call, id=new))
        self._rounds.append({_signature(c) for c in out if c.name != DONE})
        self._made += sum(c.name != DONE for c in out)
        return tuple(out)

    def made_before(self, count: int) -> int:
        """Calls of the run before the last `count` ones."""
        return self._made - count

    def is_repeated(self, call: ToolCall) -> bool:
        """Whether each of the last rounds before this one made the same call: name and arguments."""
        before = self._rounds[-1 - REPEATS : -1]
        return len(before) == REPEATS and all(_signature(call) in made for made in before)


@dataclass(slots=True)
class Plan:
    """What is to be done with the calls of one message: `good` with parsed arguments, `refused` with the answer to the model.
    `wrong`: the model made a mistake. `stop`: the run ends after this round."""

    good: list[tuple[ToolCall, dict[str, Any]]] = field(default_factory=list)
    refused: list[tuple[ToolCall, ToolResult]] = field(default_factory=list)
    wrong: bool = False
    stop: Reason | None = None


def plan(toolbox: Toolbox, log: CallLog, calls: Sequence[ToolCall], limit: int | None) -> Plan:
    """Sorts the calls of the last message. `limit` is how many calls the whole run may execute."""
    out = Plan()
    made = log.made_before(len(calls))
    for number, call in enumerate(calls, 1):
        try:
            arguments = toolbox.parse(call)
        except ValueError as e:
            out.wrong = True
            out.refused.append((call, failed(f"not executed: {e}")))
            continue
        if log.is_repeated(call):
            out.stop = "repeated_call"
            out.refused.append((call, failed("not executed: the same call was made twice before; use the results that you have")))
        elif limit is not None and made + number > limit:
            out.stop = "limit:tool_calls"
            out.refused.append((call, failed("not executed: no more tool calls are allowed in this run")))
        else:
            out.good.append((call, arguments))
    return out


async def run_all(toolbox: Toolbox, calls: Sequence[tuple[ToolCall, Mapping[str, Any]]]) -> AsyncGenerator[tuple[ToolCall, ToolResult]]:
    """Executes calls in parallel and yields each result as it comes; what still runs is cancelled when the caller stops."""
    tasks = {asyncio.create_task(toolbox.run(call, arguments)): call for call, arguments in calls}
    pending = set(tasks)
    try:
        while pending:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in [t for t in tasks if t in ended]:
                yield tasks[task], task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def unanswered(transcript: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last assistant message that have no result yet."""
    answered = set()
    for m in reversed(transcript):
        if m.role == "tool":
            answered.add(m.tool_call_id)
        elif m.role == "assistant":
            return [c for c in m.tool_calls if c.id not in answered]
        else:
            return []
    return []


def done_message(call: ToolCall) -> str:
    """The final text in a call of `done`, empty without one. Raises ValueError when the arguments are no JSON object."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError as e:
        raise ValueError(f"the arguments are not valid JSON ({e})") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments must be a JSON object with `message`")
    message = arguments.get("message")
    return message.strip() if isinstance(message, str) else ""


@asynccontextmanager
async def closing(stream: AsyncIterator[Chunk]) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Closes a stream of chunks at once when its reader stops, if it is one that can be closed: so upstream connections end."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _signature(call: ToolCall) -> tuple[str, bytes]:
    try:
        return call.name, orjson.dumps(orjson.loads(call.arguments or "{}"), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONDecodeError:
        return call.name, call.arguments.encode()
