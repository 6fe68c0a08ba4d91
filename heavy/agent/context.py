"""What fits into a model's context: valid histories, and the summary that replaces what no longer fits.

It knows messages and a gateway; where histories are kept it does not know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from common.contracts.query import Usage
from common.errors import LoadsplitError
from heavy.agent import prompts
from heavy.agent.said import SHOWN
from heavy.llm.tokens import estimate, estimate_tools, tokens_of
from heavy.llm.types import Gateway, LLMRequest, Message, ToolSpec

COMPACT_AT = 0.7  # share of the context from which the older history is summarised
KEEP = 0.35  # share that the newest turns may take beside a summary
FULL = 0.9  # share that a request never exceeds: the rest is for the answer
SHORTENED = 400  # characters that stay of an old tool result when the turn itself outgrows the context
NO_ANSWER = "(no answer was given)"
NO_RESULT = '{"error": "the call was interrupted; its result is not known"}'

_log = logging.getLogger(__name__)


def sanitise(messages: Sequence[Message]) -> list[Message]:
    """A history that every provider takes: it begins with a user message, every tool call is answered right after it, no result
    stands alone, and between two user messages stands an answer."""
    out: list[Message] = []
    position = 0
    while position < len(messages):
        m = messages[position]
        position += 1
        if m.role == "user":
            if out and out[-1].role == "user":
                out.append(Message("assistant", NO_ANSWER))
            out.append(m)
        elif m.role == "assistant" and out:
            results: dict[str | None, Message] = {}
            while m.tool_calls and position < len(messages) and messages[position].role == "tool":
                results.setdefault(messages[position].tool_call_id, messages[position])
                position += 1
            if m.content.strip() or m.tool_calls:
                out.append(m)
            out += [results.get(c.id) or Message("tool", NO_RESULT, tool_call_id=c.id) for c in m.tool_calls]
    if out and out[-1].role == "user":
        out.append(Message("assistant", NO_ANSWER))  # the message that is being answered now follows
    return out


def words_only(messages: Sequence[Message]) -> list[Message]:
    """The history as plain dialogue, without tool calls and results: for requests that offer no tools."""
    spoken: list[Message] = []
    for m in messages:
        if m.role == "assistant" and m.content.strip():
            if spoken and spoken[-1].role == "assistant":
                spoken[-1] = Message("assistant", f"{spoken[-1].content}\n\n{m.content}")
            else:
                spoken.append(Message("assistant", m.content))
        elif m.role == "user":
            spoken.append(m)
    return sanitise(spoken)


def turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages cut into turns: each begins with a user message."""
    out: list[list[Message]] = []
    for m in messages:
        if m.role == "user" or not out:
            out.append([])
        out[-1].append(m)
    return out


def newest(messages: Sequence[Message], room: float) -> tuple[list[Message], list[Message]]:
    """(older, kept): the newest whole turns whose estimated tokens fit into `room`."""
    kept: list[Message] = []
    older = turns(messages)
    while older and (size := estimate(older[-1])) <= room:
        room -= size
        kept = older.pop() + kept
    return [m for turn in older for m in turn], kept


class Window:
    """The context of one run: gives the messages of each request, and compacts once when the history grows too large."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        model: str,
        compaction_model: str | None,
        history: Sequence[Message],
        tools: Sequence[ToolSpec],
        deadline: float | None,
    ) -> None:
        self._gateway = gateway
        self._compaction_model = compaction_model or model
        self._history = sanitise(history) if tools else words_only(history)
        self._deadline = deadline
        self._size = gateway.context_tokens(model)
        self._tools = estimate_tools(tools)
        self._summary: str | None = None
        self._compacted = False
        self.usage = Usage()

    async def messages(self, system: str, transcript: Sequence[Message], notes: str = "") -> list[Message]:
        """System prompt, history (or its summary) and transcript, in the context's size. Adds the cost of a summary to `usage`.

        `notes` are a system message of their own, so that what providers cache, the beginning, is the same for all sessions.
        """
        fixed = self._tools + tokens_of(system) + tokens_of(notes) + estimate(transcript)
        if self._history and not self._compacted and fixed + estimate(self._history) > COMPACT_AT * self._size:
            self._compacted = True
            older, self._history = newest(self._history, min(KEEP * self._size, COMPACT_AT * self._size - fixed))
            self._summary = await self._summarise(older) if older else None
        _, history = newest(self._history, FULL * self._size - fixed) if self._history else ([], [])
        more = [notes, prompts.summary_note(self._summary) if self._summary else ""]
        head = [Message("system", system), *(Message("system", text) for text in more if text)]
        return [*head, *history, *shorten(noted(transcript), FULL * self._size - self._tools - tokens_of(system) - tokens_of(notes))]

    async def _summarise(self, older: Sequence[Message]) -> str | None:
        """The older part in a few sentences, None when that fails: then it is simply left out."""
        room = int(self._gateway.context_tokens(self._compaction_model) * 0.8)
        lines = prompts.dialogue(older)
        while lines and tokens_of("\n".join(lines)) > room:
            lines = lines[len(lines) // 10 + 1 :]
        timeout = max(self._deadline - time.time(), 0.0) if self._deadline is not None else None
        request = LLMRequest(
            model=self._compaction_model,
            messages=[Message("system", prompts.COMPACTION), Message("user", "\n".join(lines))],
            timeout=timeout,
            deterministic=True,
            purpose="compaction",
        )
        try:
            done = await self._gateway.complete(request)
        except LoadsplitError as e:
            _log.warning("the older history could not be summarised and is left out: %s", e.detail)
            return None
        self.usage.add(done.usage)
        return done.message.content.strip() or None


def noted(transcript: Sequence[Message]) -> list[Message]:
    """The transcript as a model is to read it: results that the user has read say so."""
    return [replace(m, content=f"{m.content}\n\n[{prompts.SHOWN}]") if m.author == SHOWN else m for m in transcript]


def shorten(transcript: Sequence[Message], room: float) -> list[Message]:
    """The transcript of the running turn with its oldest tool results cut until it fits; the newest message stays whole."""
    out = list(transcript)
    excess = estimate(out) - room
    for i, m in enumerate(out[:-1]):
        if excess <= 0:
            break
        if m.role == "tool" and len(m.content) > SHORTENED:
            cut = Message("tool", m.content[:SHORTENED] + " … [shortened]", tool_call_id=m.tool_call_id)
            excess -= tokens_of(m.content) - tokens_of(cut.content)
            out[i] = cut
    return out
