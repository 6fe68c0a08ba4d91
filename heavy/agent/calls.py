"""The tool calls of one run: which were made, which may be executed, and executing them side by side. It never talks to a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from heavy.agent.names import DONE
from heavy.agent.steps import ApprovalDecision, HeldCall, Reason
from heavy.agent.toolbox import Toolbox, ToolResult, failed
from heavy.llm.types import Chunk, Message, ToolCall

_log = logging.getLogger(__name__)
REPEATS = 2  # rounds in a row that may make the same call; one more is a loop


class CallLog:
    """What the turn has called so far, rebuilt from its transcript. The run's own messages begin at `begins`: earlier calls count as calls,
    but not as rounds of this run."""

    def __init__(self, transcript: Sequence[Message], begins: int = 0) -> None:
        self._earlier = sum(m.role == "assistant" and bool(m.tool_calls) for m in transcript[:begins])
        self._rounds: list[set[tuple[str, bytes]]] = []
        self._ids: set[str] = set()
        self._made = 0
        for m in transcript:
            if m.role == "assistant" and m.tool_calls:
                self.unique(m.tool_calls)

    @property
    def rounds(self) -> int:
        """Assistant messages of the run with tool calls."""
        return len(self._rounds) - self._earlier

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
    """What is to be done with the calls of one message: `good` with parsed arguments, `refused` with the answer to the model, `held`
    those that a person must decide first. `wrong`: the model made a mistake. `stop`: the run ends after this round."""

    good: list[tuple[ToolCall, dict[str, Any]]] = field(default_factory=list)
    refused: list[tuple[ToolCall, ToolResult]] = field(default_factory=list)
    held: list[HeldCall] = field(default_factory=list)
    wrong: bool = False
    stop: Reason | None = None


def plan(
    toolbox: Toolbox, log: CallLog, calls: Sequence[ToolCall], limit: int | None, decisions: Mapping[str, ApprovalDecision] = {}
) -> Plan:
    """Sorts the calls of the last message. `limit` is how many calls the whole turn may execute, `decisions` what persons have decided
    on calls, by id: nothing else lets a call of a tool in `toolbox.approval` through."""
    out = Plan()
    made = log.made_before(len(calls))
    ending = False
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
        elif ending and call.name in toolbox.ending:
            out.refused.append((call, failed("not executed: another action of the same message ends the turn")))
        else:
            ending = ending or call.name in toolbox.ending
            _place(out, toolbox, call, arguments, decisions.get(call.id))
    return out


def _place(out: Plan, toolbox: Toolbox, call: ToolCall, arguments: dict[str, Any], decision: ApprovalDecision | None) -> None:
    """A call that is right in itself: run, or held for a person, or refused by one."""
    if call.name not in toolbox.approval or (decision and decision.approved):
        out.good.append((call, arguments))
    elif decision is None:
        _log.warning("call %s of tool %s waits for the approval of a person", call.id, call.name)
        out.held.append(HeldCall(call, arguments))
    else:
        _log.warning("call %s of tool %s was denied by %s", call.id, call.name, decision.by)
        why = f"denied by {decision.by}" + (f": {decision.reason}" if decision.reason else "")
        out.refused.append((call, failed(f"not executed: {why}")))


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


def last_round(transcript: Sequence[Message]) -> list[tuple[ToolCall, Message | None]]:
    """The calls of the last assistant message, each with its result if it has one; nothing when no call stands there."""
    results: dict[str | None, Message] = {}
    for m in reversed(transcript):
        if m.role == "tool":
            results[m.tool_call_id] = m
        elif m.role == "assistant":
            return [(c, results.get(c.id)) for c in m.tool_calls]
        else:
            return []
    return []


def unanswered(transcript: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last assistant message that have no result yet."""
    return [call for call, result in last_round(transcript) if result is None]


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
