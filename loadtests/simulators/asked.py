"""What an LLM is asked, taken out of either wire format. It knows both request bodies and nothing of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")


class BadRequest(ValueError):
    """The body is no request of that protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave, with the call that led to it."""

    name: str
    arguments: Mapping[str, Any]
    content: str

    @property
    def value(self) -> Any:
        """The content as JSON if it is JSON, else the text."""
        try:
            return json.loads(self.content)
        except ValueError:
            return self.content

    @property
    def failed(self) -> bool:
        """Whether the tool said that it failed."""
        value = self.value
        return isinstance(value, dict) and bool(value.get("error"))

    @property
    def shown(self) -> bool:
        """Whether the content says that the user has read it as it stands."""
        return "[The user has read this" in self.content


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `choice` is auto, none, required or a tool's name; `results` came since the last user message, `earlier` before it."""

    provider: str
    model: str
    system: str
    user: str
    users: tuple[str, ...]
    said: str
    tools: tuple[Tool, ...]
    choice: str
    results: tuple[Result, ...]
    earlier: tuple[Result, ...]
    stream: bool
    usage_in_stream: bool
    schema: Mapping[str, Any] | None
    purpose: str
    pieces: tuple[str, ...] = field(repr=False)

    @property
    def chinese(self) -> bool:
        """Whether the user writes with Chinese characters."""
        return _CJK.search(self.user) is not None


def tokens(text: str) -> int:
    """About how many tokens a text has: one for four Latin characters, one for each CJK one."""
    cjk = len(_CJK.findall(text))
    return cjk + (len(text) - cjk + 3) // 4


@dataclass(slots=True)
class _Conversation:
    """Collects the messages in order, whichever protocol they came in."""

    system: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    earlier: list[Result] = field(default_factory=list)
    calls: dict[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    said: str = ""
    _unanswered: set[str] = field(default_factory=set)

    def user(self, text: str) -> None:
        self.answered()
        if text:
            self.users.append(text)
            self.earlier += self.results
            self.results = []

    def call(self, call_id: Any, name: Any, arguments: Any) -> None:
        self.calls[str(call_id)] = (str(name), _object(arguments))
        self._unanswered.add(str(call_id))

    def result(self, call_id: Any, content: str) -> None:
        if str(call_id) not in self._unanswered:
            raise BadRequest(f"a tool result for {call_id!r} must follow the message with that tool call")
        self._unanswered.discard(str(call_id))
        name, arguments = self.calls[str(call_id)]
        self.results.append(Result(name, arguments, content))

    def answered(self) -> None:
        """Both providers refuse a history in which a tool call has no result."""
        if self._unanswered:
            raise BadRequest(f"tool calls without a result: {', '.join(sorted(self._unanswered))}")


def openai(doc: Any, purpose: str = "") -> Asked:
    """Reads a chat completion request. Raises BadRequest."""
    messages = _messages(doc)
    talk = _Conversation()
    for m in messages:
        role, text = m.get("role"), _text(m.get("content"))
        if role in ("system", "developer"):
            talk.system.append(text)
        elif role == "user":
            talk.user(text)
        elif role == "assistant":
            talk.answered()
            talk.said = text or talk.said
            for call in m.get("tool_calls") or ():
                talk.call(call.get("id"), call["function"]["name"], call["function"].get("arguments"))
        elif role == "tool":
            talk.result(m.get("tool_call_id"), text)
        else:
            raise BadRequest(f"unknown role {role!r}")
    talk.answered()
    tools = tuple(
        Tool(t["function"]["name"], t["function"].get("description") or "", t["function"].get("parameters") or {})
        for t in doc.get("tools") or ()
    )
    choice = doc.get("tool_choice") or "auto"
    form = doc.get("response_format") or {}
    forms: dict[Any, Mapping[str, Any]] = {"json_schema": (form.get("json_schema") or {}).get("schema") or {}, "json_object": {}}
    schema = forms.get(form.get("type"))
    return _asked("openai", doc, talk, tools, choice if isinstance(choice, str) else choice["function"]["name"], schema, purpose)


def anthropic(doc: Any, purpose: str = "") -> Asked:
    """Reads a messages request. Raises BadRequest."""
    messages = _messages(doc)
    if type(doc.get("max_tokens")) is not int:
        raise BadRequest("max_tokens: field required")
    talk = _Conversation(system=[_text(doc.get("system"))])
    for m in messages:
        if m.get("role") not in ("user", "assistant"):
            raise BadRequest(f"unknown role {m.get('role')!r}")
        content = m.get("content")
        if m["role"] == "assistant":
            talk.answered()
            talk.said = _text(content) or talk.said
            for block in content if isinstance(content, list) else ():
                if block.get("type") == "tool_use":
                    talk.call(block.get("id"), block["name"], block.get("input"))
        else:
            for block in content if isinstance(content, list) else ():
                if block.get("type") == "tool_result":
                    talk.result(block.get("tool_use_id"), _text(block.get("content")))
            talk.user(_text(content))
    talk.answered()
    if messages[0].get("role") != "user":
        raise BadRequest("the first message must be the user's")
    tools = tuple(Tool(t["name"], t.get("description") or "", t.get("input_schema") or {}) for t in doc.get("tools") or ())
    choice = doc.get("tool_choice") or {"type": "auto"}
    name = str({"any": "required", "tool": choice.get("name")}.get(choice["type"], choice["type"]))
    return _asked("anthropic", doc, talk, tools, name, None, purpose)


def _asked(
    provider: str, doc: Any, talk: _Conversation, tools: tuple[Tool, ...], choice: str, schema: Mapping[str, Any] | None, purpose: str
) -> Asked:
    if choice not in ("auto", "none", "required") and all(t.name != choice for t in tools):
        raise BadRequest(f"tool_choice names {choice!r}, which is not among the tools")
    piece = _unmarked_json if provider == "anthropic" else _json
    return Asked(
        provider=provider,
        model=str(doc.get("model") or ""),
        system="\n".join(talk.system),
        user=talk.users[-1] if talk.users else "",
        users=tuple(talk.users),
        said=talk.said,
        tools=tools,
        choice=choice,
        results=tuple(talk.results),
        earlier=tuple(talk.earlier),
        stream=bool(doc.get("stream")),
        usage_in_stream=provider == "anthropic" or bool((doc.get("stream_options") or {}).get("include_usage")),
        schema=schema,
        purpose=purpose,
        pieces=(piece([doc.get("system"), doc.get("tools")]), *map(piece, doc["messages"])),
    )


def _json(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False)


def _unmarked_json(part: Any) -> str:
    """A part of a request as it counts for the cache of prefixes: where its breakpoints are makes no difference."""
    return _json(_unmarked(part))


def _unmarked(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _unmarked(value) for name, value in part.items() if name != "cache_control"}
    return [_unmarked(value) for value in part] if isinstance(part, list) else part


def _messages(doc: Any) -> list[dict[str, Any]]:
    if not isinstance(doc, dict) or not isinstance(doc.get("model"), str):
        raise BadRequest("model: field required")
    messages = doc.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("messages: a list of at least one message is required")
    return messages


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(b.get("text") or "") for b in content if isinstance(b, dict) and b.get("type") in ("text", "input_text"))
    return content if isinstance(content, str) else ""


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}
