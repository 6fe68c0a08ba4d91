"""The request for a model as the client wrote it: only the model's name is replaced, and a stream is asked for its usage.

Everything else goes on byte for byte. It knows both protocols' names and no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from common.errors import InvalidRequest

Provider = Literal["openai", "anthropic"]
# For what is set aside before a call; what is counted afterwards is the provider's own figure.
BYTES_OF_A_TOKEN, TOKENS_OF_A_FILE = 4, 1600
_STRING = rb'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_SCALAR = re.compile(rb"[^,}\]\s]*")
_FILE = re.compile(rb'"(?:data:[^",]{1,100},)?[A-Za-z0-9+/=\\]{1000,}"')
_WITH_USAGE = b',"stream_options":{"include_usage":true}'

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RelayedBody:
    """A body in pieces. `model` is what it names; another name goes between `before` and `after`. `hides_usage` says that the client has
    not asked for the chunk with the usage; `tokens` estimates the input, `most_output` is what the client allows (0: not said)."""

    model: str
    before: bytes
    after: bytes
    streaming: bool
    hides_usage: bool
    tokens: int
    most_output: int

    def for_model(self, name: str) -> bytes:
        """The body that asks for this model."""
        return b"".join((self.before, orjson.dumps(name), self.after))


def read(body: bytes, provider: Provider) -> RelayedBody:
    """Takes a body apart. Raises InvalidRequest naming the member; what else is wrong with it the provider will say."""
    doc = _object(body)
    streaming = doc.get("stream")
    if streaming is not None and type(streaming) is not bool:
        raise InvalidRequest("stream must be true or false", field="stream")
    options = doc.get("stream_options")
    if options is not None and type(options) is not dict:
        raise InvalidRequest("stream_options must be an object", field="stream_options")
    asks = bool(streaming) and provider == "openai" and not (options and options.get("include_usage") is True)
    names = ("model", "stream_options") if asks and "stream_options" in doc else ("model",)
    spans = _spans(body, names)
    start, end = spans["model"]
    before, after = body[:start], body[end:]
    if asks and "stream_options" in spans:
        value = orjson.dumps({**(options or {}), "include_usage": True})
        first, last = spans["stream_options"]
        if first < start:
            before = body[:first] + value + body[last:start]
        else:
            after = body[end:first] + value + body[last:]
    elif asks:
        after = _WITH_USAGE + after
    return RelayedBody(doc["model"], before, after, bool(streaming), asks, _tokens(body), _most_output(doc))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not valid JSON: {e.msg} at line {e.lineno} column {e.colno}") from None
    if type(doc) is not dict:
        raise InvalidRequest("the body must be a JSON object")
    if type(doc.get("model")) is not str:
        raise InvalidRequest("model is required: models/<alias>; GET /v1/models lists them", field="model")
    return doc


def _tokens(body: bytes) -> int:
    """About how many tokens the input has. A picture or a document costs by what it shows, not by the length of its base64."""
    if b"base64" not in body:
        return len(body) // BYTES_OF_A_TOKEN
    files = [found.end() - found.start() for found in _FILE.finditer(body)]
    return (len(body) - sum(files)) // BYTES_OF_A_TOKEN + len(files) * TOKENS_OF_A_FILE


def _most_output(doc: Mapping[str, Any]) -> int:
    given = doc.get("max_completion_tokens") or doc.get("max_tokens")
    return given if type(given) is int and given > 0 else 0


def _spans(body: bytes, names: tuple[str, ...]) -> dict[str, Span]:
    """Where the values of these members stand. Without escapes a name that occurs once in the whole body is surely the member; else the
    body is walked through."""
    if b"\\u" not in body and all(body.count(b'"%s"' % name.encode()) == 1 for name in names):
        return {name: _value(body, body.index(b'"%s"' % name.encode()) + len(name) + 2) for name in names}
    return _walk(body, names)


def _walk(body: bytes, names: tuple[str, ...]) -> dict[str, Span]:
    found: dict[str, Span] = {}
    depth = 0
    for token in _TOKEN.finditer(body):
        first = token.group()[:1]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        elif depth == 1 and _COLON.match(body, token.end()):
            name = orjson.loads(token.group())
            if name in found:
                raise InvalidRequest(f"the key {name!r} stands twice in one object", field=name)
            if name in names:
                found[name] = _value(body, token.end())
    return found


def _value(body: bytes, after_name: int) -> Span:
    """The value behind a member's name."""
    colon = _COLON.match(body, after_name)
    start = colon.end() if colon else after_name
    if body[start : start + 1] not in (b'"', b"{", b"["):
        scalar = _SCALAR.match(body, start)
        return start, scalar.end() if scalar else start
    depth = 0
    for token in _TOKEN.finditer(body, start):
        first = token.group()[:1]
        depth += (first in b"{[") - (first in b"}]")
        if depth == 0:
            return start, token.end()
    return start, len(body)
