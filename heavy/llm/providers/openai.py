"""OpenAI's chat completions, and everything that speaks it. The SDK says where calls go and with which headers; the bytes are our own.

The SDK builds objects for every request and every chunk; sending and decoding bytes instead is several times as fast (docs/llm.md has the
figures).
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import partial
from typing import Any

import orjson
from openai import AsyncOpenAI

from heavy.llm.connections import Connections
from heavy.llm.providers.assembly import Assembly, ToolNames, as_object, count
from heavy.llm.providers.failures import from_body
from heavy.llm.providers.wire import PURPOSE_HEADER, Address, Clock, converse
from heavy.llm.types import Chunk, FinishReason, LLMRequest, Message, Target

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "content_filter": "content_filter",
}
# These take only their own sampling and refuse any temperature.
_OWN_SAMPLING = re.compile(r"(.*/)?(o\d|gpt-[5-9])")


class OpenAIProvider:
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
        reader = ChatReader(Assembly(target, names, request.told))
        return converse(call, reader, Clock(target, request, streaming), streaming=streaming)

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._connections.aclose()

    def _address(self, target: Target) -> Address:
        key = (target.base_url, target.api_key)
        if key not in self._addresses:
            client = AsyncOpenAI(api_key=target.api_key or "unused", base_url=target.base_url)
            self._addresses[key] = Address.of(client.base_url, "/chat/completions", {**client.auth_headers, **client.default_headers})
        return self._addresses[key]


class ChatReader:
    """Reads chat.completion.chunk events and chat.completion documents."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.done = False

    @property
    def may_end(self) -> bool:
        """A finish reason has come: some servers leave out [DONE]."""
        return self.assembly.finish is not None

    def event(self, doc: dict[str, Any]) -> str:
        """One chunk."""
        choices = doc.get("choices")
        if not choices:
            if doc.get("error"):
                raise from_body(doc, status=None, headers={}, partial=self.assembly.partial, usage=self.assembly.usage)
            if doc.get("usage"):
                self._count(doc["usage"])
            return ""
        choice = choices[0]
        delta = choice.get("delta")
        text = ""
        if delta:
            text = delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                function = call.get("function") or {}
                self.assembly.add_call(call.get("index"), call.get("id"), function.get("name"), function.get("arguments"))
            if delta.get("refusal"):
                text += delta["refusal"]
        if choice.get("finish_reason"):
            self.assembly.finish = _FINISH.get(choice["finish_reason"], "stop")
            self.assembly.model = str(doc.get("model") or "")
        if doc.get("usage"):
            self._count(doc["usage"])
        if type(text) is not str:
            raise TypeError("content is no string")
        return text

    def whole(self, doc: dict[str, Any]) -> None:
        """A whole completion."""
        choice = doc["choices"][0]
        message = choice["message"]
        text = (message.get("content") or "") + (message.get("refusal") or "")
        if text:
            self.assembly.add_text(text)
        for n, call in enumerate(message.get("tool_calls") or ()):
            self.assembly.add_call(n, call.get("id"), call["function"].get("name"), call["function"].get("arguments"))
        self.assembly.finish = _FINISH.get(choice.get("finish_reason") or "stop", "stop")
        self.assembly.model = str(doc.get("model") or "")
        self._count(doc.get("usage") or {})

    def _count(self, usage: dict[str, Any]) -> None:
        ours = self.assembly.usage
        ours.input_tokens = count(usage.get("prompt_tokens"))
        ours.output_tokens = count(usage.get("completion_tokens"))
        ours.cached_tokens = min(ours.input_tokens, count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")))


def body(target: Target, request: LLMRequest, names: ToolNames, streaming: bool) -> dict[str, Any]:
    """The request's JSON members."""
    out: dict[str, Any] = {"model": target.model, "messages": _messages(request.messages, names), "stream": streaming}
    # OpenAI itself wants the new name; servers that speak its protocol know the old one.
    official = target.base_url is None or "api.openai.com" in target.base_url
    out["max_completion_tokens" if official else "max_tokens"] = request.max_tokens or target.max_tokens
    if streaming:
        out["stream_options"] = {"include_usage": True}
    if official and target.prompt_cache and request.spender is not None and request.spender.agent_id:
        out["prompt_cache_key"] = _cache_key(request.spender.agent_id, request.spender.skill or request.purpose)
    if request.deterministic and not _OWN_SAMPLING.match(target.model):
        out["temperature"] = 0
    if request.tools:
        out["tools"] = [
            {"type": "function", "function": {"name": names.out(t.name), "description": t.description, "parameters": dict(t.parameters)}}
            for t in request.tools
        ]
        choice = request.tool_choice
        out["tool_choice"] = (
            choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": names.out(choice)}}
        )
    return out


def _messages(messages: Sequence[Message], names: ToolNames) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    head = [m.content for m in itertools.takewhile(lambda m: m.role == "system", messages)]
    if head:  # some servers take one system message only, and only as the first
        out.append({"role": "system", "content": "\n\n".join(head)})
    for m in messages[len(head) :]:
        if m.role == "tool":
            out.append({"role": "tool", "tool_call_id": m.tool_call_id or "", "content": m.content})
        elif m.role != "assistant":
            out.append({"role": m.role, "content": m.content})
        elif m.tool_calls:
            # Servers that put the arguments into a prompt template parse them: what is not valid goes back as {}.
            calls = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": names.out(c.name), "arguments": c.arguments if as_object(c.arguments) else "{}"},
                }
                for c in m.tool_calls
            ]
            out.append({"role": "assistant", "content": m.content or None, "tool_calls": calls})
        elif m.content:
            out.append({"role": "assistant", "content": m.content})
    return out


def _cache_key(agent_id: str, skill: str) -> str:
    """What calls with the same beginning have in common; at most 64 characters."""
    key = f"{agent_id}/{skill}"
    return key if len(key) <= 64 and key.isascii() else hashlib.sha256(key.encode()).hexdigest()
