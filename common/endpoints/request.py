"""From a declared endpoint to a request: compiled once, then filled with variables. Values are percent-encoded into URLs, refused in
headers when they hold control characters, and stand structurally in JSON bodies. Nothing is sent here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import jmespath
import jmespath.exceptions
import orjson
from yarl import URL

from common.endpoints.failures import EndpointFailed
from common.endpoints.template import MISSING, Field, Template, as_text, compile_json, json_tree
from common.workflow.schema import Endpoint

_LITERAL_SAFE = "/%:@!$&'()*+,;=~-._?"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_SLASHES = re.compile(r"[/\\]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# The transport sets these; a declared one would only break the framing.
_TRANSPORT_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "te", "upgrade", "expect"})
_NAMES_THE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})

Piece = str | Field
Segment = tuple[Piece, ...]


@dataclass(slots=True)  # not frozen: that doubles the time to make one
class Prepared:
    """A request with every value in place."""

    url: URL
    headers: dict[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledEndpoint:
    """A declared call, parsed once. `name` is for messages and metrics, `key` tells endpoints apart; times are seconds."""

    name: str
    key: str
    method: str
    host: str
    port: int
    origin: str
    path: tuple[Piece | Segment, ...]
    query: tuple[Piece, ...]
    params: tuple[tuple[str, Any], ...]
    fixed_url: URL | None
    headers: tuple[tuple[str, Template], ...]
    fixed_headers: dict[str, str] | None
    body: Any
    body_kind: str
    timeout: float
    retries: int
    cache_ttl: float
    idempotent: bool | None
    success_when: Any
    as_text: bool = False

    def repeatable(self, idempotency_key: str | None) -> bool:
        """Whether the call may be made twice: its method says so, the file says so, or a key goes with it."""
        if self.idempotent is not None:
            return self.idempotent
        return self.method in _NAMES_THE_METHODS or idempotency_key is not None

    def prepare(self, variables: Mapping[str, Any], idempotency_key: str | None = None) -> Prepared:
        """Puts the variables in. Raises EndpointFailed: missing_variable for a URL path, bad_value for what cannot stand in its place."""
        try:
            url = self.fixed_url or URL(self._url(variables), encoded=True)
            headers = dict(self.fixed_headers) if self.fixed_headers is not None else self._headers(variables)
            if idempotency_key is not None and self.method not in ("GET", "HEAD"):
                headers["Idempotency-Key"] = self._clean("Idempotency-Key", idempotency_key)
            return Prepared(url, headers, self._body(variables))
        except (UnicodeError, TypeError, ValueError, RecursionError):  # lone surrogates, for one, have no bytes
            raise EndpointFailed(self.name, "a value cannot be sent", kind="bad_value") from None

    def _url(self, variables: Mapping[str, Any]) -> str:
        path = "".join([p if type(p) is str else self._segment(p, variables) for p in self.path])  # type: ignore[arg-type]
        query = "".join([p if type(p) is str else _encoded(as_text(p.of(variables))) for p in self.query])  # type: ignore[union-attr]
        more = "&".join(_parameters(self.params, variables)) if self.params else ""
        both = f"{query}&{more}" if query and more else query or more
        return f"{self.origin}{path}?{both}" if both else self.origin + path

    def _segment(self, segment: Segment, variables: Mapping[str, Any]) -> str:
        parts = []
        for piece in segment:
            if type(piece) is str:
                parts.append(piece)
                continue
            value = piece.of(variables)  # type: ignore[union-attr]
            if value is MISSING or value is None:
                raise EndpointFailed(self.name, f"the URL needs {piece.name}", kind="missing_variable")  # type: ignore[union-attr]
            text = as_text(value)
            if "." in text and any(part in (".", "..") for part in _SLASHES.split(text)):
                raise EndpointFailed(self.name, f"{piece.name} would leave its place in the URL", kind="bad_value")  # type: ignore[union-attr]
            parts.append(_encoded(text))
        whole = parts[0] if len(parts) == 1 else "".join(parts)
        if not whole:
            raise EndpointFailed(self.name, "the URL would have an empty part", kind="missing_variable")
        if len(whole) <= 6 and whole.replace("%2e", ".").replace("%2E", ".") in (".", ".."):
            raise EndpointFailed(self.name, "a value would leave its place in the URL", kind="bad_value")
        return whole

    def _headers(self, variables: Mapping[str, Any]) -> dict[str, str]:
        return {name: self._clean(name, template.render(variables)) for name, template in self.headers}

    def _clean(self, name: str, value: str) -> str:
        if _CONTROL.search(value):
            raise EndpointFailed(self.name, f"the header {name} would hold control characters", kind="bad_value")
        return value

    def _body(self, variables: Mapping[str, Any]) -> bytes | None:
        kind = self.body_kind
        if kind == "none":
            return None
        if kind == "json":
            return orjson.dumps(Template.fill_json(self.body, variables))
        if kind == "form":
            filled = Template.fill_json(self.body, variables)
            return urlencode({k: as_text(v) for k, v in filled.items() if v is not None}).encode()
        if kind == "form_text":
            return _with_values(self.body, variables, lambda v: quote_plus(as_text(v))).encode()
        if kind == "json_text":
            return _with_values(self.body, variables, _inside_json).encode()
        return str(self.body.render(variables)).encode()


def compile_endpoint(
    endpoint: Endpoint, *, name: str, env: Mapping[str, str], default_body: Any = None, as_text: bool = False
) -> CompiledEndpoint:
    """Parses a declared call. `env` fills `${NAME}` in its URL and headers; `default_body` is sent where the file gives no body and the
    method is not GET; with `as_text` the reply is not decoded. Raises ValueError (one line) for what can never be called.
    """
    body, method = endpoint.body, endpoint.verb
    if body is None and default_body is not None and method in ("GET", "POST", "PUT", "PATCH") and endpoint.method != "GET":
        body, method = default_body, endpoint.method or "POST"
    if method in ("GET", "HEAD"):
        body = None
    origin, pieces = _split_url(Template.parse(endpoint.url, env))
    base = _base(origin)
    path, query = _path_and_query(pieces)
    params = tuple((k, compile_json(v)) for k, v in endpoint.query_params.items())
    headers = _compile_headers(endpoint.headers, env)
    kind, tree = _compile_body(body, next((t.constant or "" for n, t in headers if n.lower() == "content-type"), ""))
    if kind != "none" and not any(n.lower() == "content-type" for n, _ in headers):
        types = {"form": "application/x-www-form-urlencoded", "text": "text/plain; charset=utf-8"}
        headers = (*headers, ("Content-Type", Template((types.get(kind, "application/json"),))))
    compiled = CompiledEndpoint(
        name=name,
        key=f"{name} {method} {base.host}:{base.port} {endpoint.url}",
        method=method,
        host=base.host or "",
        port=base.port or 0,
        origin=f"{base.scheme}://{base.raw_authority}",  # IDNA, not the letters of the file
        path=path,
        query=query,
        params=params,
        fixed_url=None,
        headers=headers,
        fixed_headers={n: t.constant or "" for n, t in headers} if all(t.constant is not None for _, t in headers) else None,
        body=tree,
        body_kind=kind,
        timeout=endpoint.timeout,
        retries=endpoint.retries,
        cache_ttl=endpoint.cache_ttl if method == "GET" else 0.0,
        idempotent=endpoint.idempotent,
        success_when=compile_path(endpoint.success_when),
        as_text=as_text,
    )
    if not params and all(type(p) is str for p in (*path, *query)):
        object.__setattr__(compiled, "fixed_url", URL(compiled._url({}), encoded=True))
    return compiled


def compile_path(expression: str | None) -> Any:
    """A compiled JMESPath, None for none. Raises ValueError with its fault in one line."""
    if expression is None:
        return None
    try:
        return jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as e:
        raise ValueError(f"{expression!r} is no JMESPath: {str(e).splitlines()[0]}") from None


def _split_url(template: Template) -> tuple[str, list[Piece]]:
    pieces = list(template.pieces)
    first = pieces[0] if pieces else ""
    found = re.match(r"\s*(https?://[^/?#\\\s]+)", first, re.IGNORECASE) if type(first) is str else None
    if not found:
        raise ValueError("the URL must begin with http:// or https:// and a literal host")
    rest = first[found.end() :]  # type: ignore[index]
    if not rest and len(pieces) > 1:
        raise ValueError("a placeholder in the host of a URL is refused")
    return found[1], [rest.rstrip() if len(pieces) == 1 else rest, *pieces[1:]]


def _base(origin: str) -> URL:
    try:
        base = URL(origin)
        if not base.host:
            raise ValueError("it has no host")
    except ValueError as e:
        raise ValueError(f"the URL is wrong: {str(e).splitlines()[0]}") from None
    return base


def _path_and_query(pieces: list[Piece]) -> tuple[tuple[Piece | Segment, ...], tuple[Piece, ...]]:
    """Splits at the first literal `?`, drops what follows a literal `#`, and groups the path by its segments."""
    path: list[Piece] = []
    query: list[Piece] = []
    into = path
    for piece in pieces:
        if type(piece) is not str:
            into.append(piece)
            continue
        text, fragment, _ = piece.partition("#")
        if into is path and "?" in text:
            before, _, text = text.partition("?")
            path.append(quote(before, safe=_LITERAL_SAFE))
            into = query
        into.append(quote(text, safe=_LITERAL_SAFE))
        if fragment:
            break
    return _segments(path), _merged(query)


def _segments(path: list[Piece]) -> tuple[Piece | Segment, ...]:
    """Literal runs stay strings; a segment that holds a placeholder becomes a tuple of its own, so that it can be judged as a whole."""
    segments: list[list[Piece]] = [[]]
    for piece in path:
        if type(piece) is not str:
            segments[-1].append(piece)
            continue
        first, *others = piece.split("/")
        segments[-1].append(first)
        segments.extend([part] for part in others)
    flat: list[Any] = []
    for number, segment in enumerate(segments):
        if number:
            flat.append("/")
        flat.append("".join(segment) if all(type(p) is str for p in segment) else tuple(p for p in segment if p != ""))  # type: ignore[arg-type]
    return _merged(flat) or ("/",)


def _merged(pieces: list[Any]) -> tuple[Any, ...]:
    merged: list[Any] = []
    for piece in pieces:
        if type(piece) is str and merged and type(merged[-1]) is str:
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return tuple(merged)


def _parameters(params: tuple[tuple[str, Any], ...], variables: Mapping[str, Any]) -> list[str]:
    """`name=value` pairs: lists repeat the name, null and missing ones are left out."""
    pairs = []
    for name, tree in params:
        value = Template.fill_json(tree, variables)
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                pairs.append(f"{_encoded(name)}={_encoded(as_text(one))}")
    return pairs


def _compile_headers(headers: Mapping[str, str], env: Mapping[str, str]) -> tuple[tuple[str, Template], ...]:
    compiled = []
    for name, text in headers.items():
        if not _HEADER_NAME.match(name):
            raise ValueError(f"{name!r} is no header name")
        template = Template.parse(text, env)
        if any(type(p) is str and _CONTROL.search(p) for p in template.pieces):
            raise ValueError(f"the header {name} holds control characters")
        if name.lower() not in _TRANSPORT_HEADERS:
            compiled.append((name, template))
    return tuple(compiled)


def _compile_body(body: Any, content_type: str) -> tuple[str, Any]:
    """(kind, what to fill): json, form (an object as a form), form_text, json_text (text that only looks like JSON), text, none."""
    form = "x-www-form-urlencoded" in content_type
    if body is None:
        return "none", None
    if type(body) is str:
        tree = json_tree(body)
        if tree is MISSING:
            template = Template.parse(body)
            if form:
                return "form_text", template
            if body.lstrip()[:1] in ("{", "[") and template.sole is None:
                return "json_text", template
            return ("json" if "json" in content_type or template.sole else "text"), template
        body_tree = tree
    else:
        body_tree = compile_json(body)
    return ("form" if form and isinstance(body_tree, dict) else "json"), body_tree


def _encoded(text: str) -> str:
    """Percent-encoded for a path segment or a query value. Most values are ids: those are not looked at twice."""
    return text if text.isascii() and text.isalnum() else quote(text, safe="")


def _with_values(template: Template, variables: Mapping[str, Any], encode: Any) -> str:
    return "".join([p if type(p) is str else encode(p.of(variables)) for p in template.pieces])  # type: ignore[union-attr]


def _inside_json(value: Any) -> str:
    """A value for a place between quotes: a string's escapes without its quotes, everything else as JSON."""
    text = orjson.dumps(None if value is MISSING else value).decode()
    return text[1:-1] if text.startswith('"') else text
