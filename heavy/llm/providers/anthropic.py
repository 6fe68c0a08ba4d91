"""Anthropic's messages API. The SDK says where calls go and with which headers; the bytes are our own.

A stream is complete only with `message_stop`; an overload may come as an event inside a 200.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import partial
from typing import Any

import orjson
from anthropic import AsyncAnthropic

from heavy.llm.connections import Connections
from heavy.llm.providers.assembly import Assembly, ToolNames, as_object, count
from heavy.llm.providers.breakpoints import MIN_CACHED_TOKENS, mark
from heavy.llm.providers.failures import from_body
from heavy.llm.providers.wire import PURPOSE_HEADER, Address, Clock, converse
from heavy.llm.tokens import estimate, estimate_tools
from heavy.llm.types import Chunk, FinishReason, LLMRequest, Message, Target

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")
# The API refuses text that is empty or only white space.
_NO_TEXT = "(no text)"


class AnthropicProvider:
    """Implements heavy.llm.types.Provider. The addresses of `targets` are made at once: the first one takes about 0.2 s, which no request
    should wait for."""

    def __init__(self, targets: Iterable[Target] = ()) -> None:
        self._connections = Connections()
        self._addresses: dict[tuple[str | None, str], Address] = {}
        for target in targets:
            self._address(target)

    def stream(self, target: Target, request: LLMRequest, *, streaming: bool) -> AsyncGenerator[Chunk, None]:
        """One call at one target. Raises LLMCallFailed; never retries."""
        names, to = ToolNames(request.tools), self._address(target)
        call = partial(
            self._connections.post,
            to.url,
            orjson.dumps(body(target, request, names, streaming)),
            {**to.headers, PURPOSE_HEADER: request.purpose},
            connect_timeout=target.connect_timeout,
        )
        reader = MessageReader(Assembly(target, names, request.told))
        return converse(call, reader, Clock(target, request, streaming), streaming=streaming)

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._connections.aclose()

    def _address(self, target: Target) -> Address:
        key = (target.base_url, target.api_key)
        if key not in self._addresses:
            # The path has /v1 already.
            base_url = target.base_url.rstrip("/").removesuffix("/v1") if target.base_url else None
            client = AsyncAnthropic(api_key=target.api_key or "unused", base_url=base_url)
            self._addresses[key] = Address.of(client.base_url, "/v1/messages", {**client.auth_headers, **client.default_headers})
        return self._addresses[key]


class MessageReader:
    """Reads the events of a streamed message, and message documents."""

    may_end = False  # only message_stop ends a message

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.done = False
        self._input: dict[str, int] = {}
        self._whole_input: dict[int, Any] = {}

    def event(self, doc: dict[str, Any]) -> str:
        """One event. Thinking, citations, pings and kinds not known yet carry nothing for us."""
        kind = doc.get("type")
        if kind == "content_block_delta":
            delta = doc["delta"]
            if delta["type"] == "text_delta":
                return _text(delta["text"])
            if delta["type"] == "input_json_delta":
                self._whole_input.pop(doc["index"], None)
                self.assembly.add_call(doc["index"], None, None, delta["partial_json"])
        elif kind == "content_block_start":
            block = doc["content_block"]
            if block["type"] == "text":
                return _text(block.get("text") or "")
            if block["type"] == "tool_use":
                self.assembly.add_call(doc["index"], block.get("id"), block["name"], None)
                self._whole_input[doc["index"]] = block.get("input")
        elif kind == "content_block_stop":
            self._take_whole_input(doc["index"])
        elif kind == "message_start":
            self.assembly.model = str(doc["message"].get("model") or "")
            self._count(doc["message"].get("usage") or {})
        elif kind == "message_delta":
            self._stopped(doc["delta"].get("stop_reason"))
            self._count(doc.get("usage") or {})
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise from_body(doc, status=None, headers={}, partial=self.assembly.partial, usage=self.assembly.usage)
        return ""

    def _take_whole_input(self, index: int) -> None:
        """Some servers send a tool's whole input with the start of its block, and no deltas."""
        whole = self._whole_input.pop(index, None)
        if whole:
            self.assembly.add_call(index, None, None, whole)

    def whole(self, doc: dict[str, Any]) -> None:
        """A whole message."""
        for index, block in enumerate(doc["content"]):
            if block["type"] == "text":
                self.assembly.add_text(_text(block["text"]))
            elif block["type"] == "tool_use":
                self.assembly.add_call(index, block.get("id"), block["name"], block.get("input"))
        self.assembly.model = str(doc.get("model") or "")
        self._stopped(doc.get("stop_reason") or "end_turn")
        self._count(doc.get("usage") or {})

    def _stopped(self, reason: str | None) -> None:
        if reason:
            self.assembly.finish = _FINISH.get(reason, "stop")

    def _count(self, usage: dict[str, Any]) -> None:
        """The counts are running totals; the parts of the input that a later event leaves out keep their last value."""
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            if usage.get(name) is not None:
                self._input[name] = count(usage[name])
        ours = self.assembly.usage
        ours.input_tokens = sum(self._input.values())
        ours.cached_tokens = self._input.get("cache_read_input_tokens", 0)
        ours.cache_write_tokens = self._input.get("cache_creation_input_tokens", 0)
        if usage.get("output_tokens") is not None:
            ours.output_tokens = count(usage["output_tokens"])


def body(target: Target, request: LLMRequest, names: ToolNames, streaming: bool) -> dict[str, Any]:
    """The request's JSON members. The API has no temperature any more."""
    system = [{"type": "text", "text": m.content} for m in request.messages if m.role == "system" and m.content.strip()]
    out: dict[str, Any] = {
        "model": target.model,
        "max_tokens": request.max_tokens or target.max_tokens,
        "messages": _messages(request.messages, names),
        "stream": streaming,
    }
    if system:
        out["system"] = system
    if request.tools:
        out["tools"] = [
            {"name": names.out(t.name), "description": t.description, "input_schema": {"type": "object", **t.parameters}}
            for t in request.tools
        ]
        out["tool_choice"] = _choice(request.tool_choice, names)
    else:
        # A history with tool calls is refused unless the tools are declared; so declare them, and forbid their use.
        used = dict.fromkeys(names.out(c.name) for m in request.messages for c in m.tool_calls)
        if used:
            out["tools"] = [{"name": name, "description": "No longer available.", "input_schema": {"type": "object"}} for name in used]
            out["tool_choice"] = {"type": "none"}
    if target.prompt_cache and estimate(request.messages) + estimate_tools(request.tools) >= MIN_CACHED_TOKENS:
        mark(out, history=not request.deterministic)
    return out


def _choice(choice: str, names: ToolNames) -> dict[str, Any]:
    if choice in ("auto", "none"):
        return {"type": choice}
    return {"type": "any"} if choice == "required" else {"type": "tool", "name": names.out(choice)}


def _messages(messages: Sequence[Message], names: ToolNames) -> list[dict[str, Any]]:
    """Roles take turns, beginning with the user; the results of tools are blocks of a user message."""
    out: list[dict[str, Any]] = []
    for m in messages:
        blocks = _blocks(m, names)
        if not blocks:
            continue
        role = "assistant" if m.role == "assistant" else "user"
        if not out and role == "assistant":
            out.append({"role": "user", "content": [{"type": "text", "text": "(The conversation goes on.)"}]})
        if out and out[-1]["role"] == role:
            out[-1]["content"].extend(blocks)
        else:
            out.append({"role": role, "content": blocks})
    return out


def _blocks(m: Message, names: ToolNames) -> list[dict[str, Any]]:
    if m.role == "system":
        return []
    if m.role == "tool":
        return [{"type": "tool_result", "tool_use_id": _id(m.tool_call_id or ""), "content": m.content}]
    if m.role == "user":
        return [{"type": "text", "text": m.content if m.content.strip() else _NO_TEXT}]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": m.content}] if m.content.strip() else []
    return blocks + [
        {"type": "tool_use", "id": _id(c.id), "name": names.out(c.name), "input": as_object(c.arguments)} for c in m.tool_calls
    ]


def _id(call_id: str) -> str:
    """Ids that another provider made may hold characters which this one refuses."""
    return _NOT_IN_IDS.sub("_", call_id) or "_"


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("text is no string")
    return value
