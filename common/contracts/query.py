"""The query and its reply: what a client sends to /api/v1/query and what it gets back.

Parsing is written by hand: it stands on the hot path of the rule tier, where a pydantic model would cost more than the rules.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from common.errors import InvalidRequest

MAX_MESSAGE_BYTES = 32768
MAX_DEPTH = 32
MAX_CONTEXT_NAMES = 64
Scalar = str | int | float | bool | None

Tier = Literal["lightweight", "heavy"]
ActionType = Literal["flow", "tool", "skill", "system", "message", "greeting"]
MatchedBy = Literal["rule", "learned", "llm", "conversation", "none"]
Status = Literal["success", "silent", "queued", "transferred", "closed"]
OnBusy = Literal["enqueue", "reject", "interrupt", "merge"]
ON_BUSY: tuple[OnBusy, ...] = ("enqueue", "reject", "interrupt", "merge")
ON_BUSY_HEADER = b"x-loadsplit-on-busy"

_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}\Z")
_NO_CONTEXT: Mapping[str, Scalar] = {}


@dataclass(slots=True)  # not frozen: that doubles the time to make one
class Query:
    """One message of one session. `context` holds template variables that no LLM ever sees. `form` is the JSON Schema that the answer
    must fit, None for words."""

    message: str
    session_id: str
    user_id: str | None = None
    agent_id: str | None = None
    context: Mapping[str, Scalar] = field(default_factory=dict)
    form: Mapping[str, Any] | None = None

    def as_asked(self) -> list[Any]:
        """What makes two requests the same, for an Idempotency-Key."""
        asked = [self.message, self.session_id, self.user_id, self.agent_id, dict(self.context)]
        return asked if self.form is None else [*asked, self.form]


@dataclass(frozen=True, slots=True)
class Route:
    """Which tier and which action answered, and why."""

    tier: Tier
    action_type: ActionType
    action_target: str | None
    matched_by: MatchedBy
    pattern: str | None = None


@dataclass(slots=True)
class Usage:
    """LLM use of one turn. `input_tokens` counts all input, `cached_tokens` the part of it read from the provider's cache."""

    llm_calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: Usage) -> None:
        """Adds the figures of another call or turn."""
        self.llm_calls += other.llm_calls
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd = round(self.cost_usd + other.cost_usd, 9)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a query. orjson writes it as it stands."""

    session_id: str
    message: str
    status: Status
    turn_id: str
    route: Route
    usage: Usage
    config_hash: str


def new_turn_id() -> str:
    """`t_` and 32 hex digits: 48 bits of milliseconds, then 80 random bits (the layout of UUID version 7), so ids sort by time.

    The random part is the system's: within a tenant an id is all that a reader of a turn must know.
    """
    return f"t_{int(time.time() * 1000):012x}{os.urandom(10).hex()}"


def parse_query(body: bytes) -> Query:
    """Reads a /query body. Raises InvalidRequest naming the field; unknown fields are left to other endpoints and ignored."""
    return read_query(parse_object(body))


def read_query(doc: Mapping[str, Any]) -> Query:
    """The query of a decoded object. Raises InvalidRequest naming the field."""
    message = doc.get("message")
    if type(message) is not str:
        raise _wrong(doc, "message", "a string of 1 to 32768 bytes")
    # every character takes at least one byte and at most four
    if not message or (len(message) > MAX_MESSAGE_BYTES // 4 and len(message.encode()) > MAX_MESSAGE_BYTES):
        raise InvalidRequest("message must be a string of 1 to 32768 bytes", field="message")
    session_id = doc.get("session_id")
    if type(session_id) is not str or not _ID.match(session_id):
        raise _wrong(doc, "session_id", "1 to 128 characters of A-Z a-z 0-9 . _ : @ -")
    user_id = doc.get("user_id")
    if user_id is not None and (type(user_id) is not str or not 0 < len(user_id) <= 256):
        raise _wrong(doc, "user_id", "a string of 1 to 256 characters")
    agent_id = doc.get("agent_id")
    if agent_id is not None and (type(agent_id) is not str or not _ID.match(agent_id)):
        raise _wrong(doc, "agent_id", "1 to 128 characters of A-Z a-z 0-9 . _ : @ -")
    context = doc.get("context")
    return Query(message, session_id, user_id, agent_id, _NO_CONTEXT if context is None else _context(context))


def parse_on_busy(value: bytes | None) -> OnBusy:
    """X-Loadsplit-On-Busy: what to do where a turn of the session runs. Raises InvalidRequest naming it."""
    if value is None:
        return "enqueue"
    found = next((known for known in ON_BUSY if value.strip().lower() == known.encode()), None)
    if found is None:
        raise InvalidRequest(f"X-Loadsplit-On-Busy must be one of {', '.join(ON_BUSY)}", field="X-Loadsplit-On-Busy")
    return found


def parse_object(body: bytes) -> dict[str, Any]:
    """Decodes a JSON object with the edge's limits: UTF-8, depth 32, no key twice. Raises InvalidRequest."""
    try:
        doc = orjson.loads(body)  # refuses by itself what is nested deeper than 1024
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not valid JSON: {e.msg} at line {e.lineno} column {e.colno}") from None
    if type(doc) is not dict:
        raise InvalidRequest("the body must be a JSON object")
    kinds = [*map(type, doc.values())]
    if (dict in kinds or list in kinds) and body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    # Flat objects need two quotes for each key and each string; more of them means escapes, nesting or a key given twice.
    if body.count(b'"') != 2 * (len(doc) + kinds.count(str)):
        _refuse_duplicates(body)
    return doc


def check_id(value: str, name: str) -> str:
    """A session, agent or turn id from a URL. Raises InvalidRequest naming it."""
    if not _ID.match(value):
        raise InvalidRequest(f"{name} must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -", field=name)
    return value


def _context(context: Any) -> Mapping[str, Scalar]:
    if type(context) is not dict:
        raise InvalidRequest("context must be an object of strings, numbers, booleans or null", field="context")
    if len(context) > MAX_CONTEXT_NAMES:
        raise InvalidRequest(f"context may hold at most {MAX_CONTEXT_NAMES} names", field="context")
    for name, value in context.items():
        if type(value) in (dict, list):
            raise InvalidRequest(f"context.{name[:64]} must be a string, number, boolean or null", field=f"context.{name[:64]}")
    return context


def _wrong(doc: Mapping[str, Any], name: str, want: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is required: {want}" if name not in doc else f"{name} must be {want}", field=name)


def _refuse_duplicates(body: bytes) -> None:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) != len(items):
            names = [k for k, _ in items]
            twice = next(k for k in names if names.count(k) > 1)
            raise InvalidRequest(f"the key {twice[:64]!r} stands twice in one object", field=twice[:64])
        return seen

    try:
        json.loads(body, object_pairs_hook=pairs)
    except ValueError:  # stdlib refuses what orjson takes: integers of more than 4300 digits
        raise InvalidRequest("the body is not valid JSON: a number is too long") from None


def _depth(body: bytes) -> int:
    """Nesting of brackets outside strings, in one pass."""
    depth = deepest = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', body, re.DOTALL):
        first = token.group()[:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest
