"""The LLM simulator: OpenAI's chat completions and Anthropic's messages over HTTP, by a profile, with faults and counts.

It takes any key and any model name. `GET /stats` tells what it was asked, `POST /reset` forgets it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from loadtests.simulators import asked as read
from loadtests.simulators import wire
from loadtests.simulators.asked import Asked, BadRequest
from loadtests.simulators.model import Decision, decide
from loadtests.simulators.profile import Fault, FaultPlan, Profile, Rule
from loadtests.simulators.serving import serve_forever, serving
from loadtests.simulators.wire import Answer, ToolUse

LAST = 50
MAX_BODY = 64 * 1024 * 1024
MAX_PREFIXES = 20_000
# Providers cache nothing shorter than about this many tokens.
MIN_CACHED_TOKENS = 32
MODELS = ("demo", "demo-large")
_STATUS_FAULTS: dict[str, tuple[int, str, str, str | None]] = {
    "400": (400, "invalid_request_error", "simulated: the request is refused", None),
    "401": (401, "authentication_error", "simulated: the key is refused", "invalid_api_key"),
    "404": (404, "not_found_error", "simulated: no such model", "model_not_found"),
    "429": (429, "rate_limit_error", "simulated: too many requests", "rate_limit_exceeded"),
    "500": (500, "api_error", "simulated: internal error", None),
    "503": (503, "overloaded_error", "simulated: no capacity", None),
    "529": (529, "overloaded_error", "simulated: overloaded", None),
}


class Simulator:
    """The state of one simulator: its profile, its faults to come, what it was asked."""

    def __init__(self, profile: Profile, max_prefixes: int = MAX_PREFIXES) -> None:
        self.profile = profile
        self._max_prefixes = max_prefixes
        self.open = 0
        self.reset()

    def reset(self) -> None:
        """Forgets everything that was counted; seeded faults begin anew."""
        self._faults = FaultPlan(self.profile)
        self._prefixes: OrderedDict[bytes, int] = OrderedDict()
        self.calls = 0
        self.tokens = {"input": 0, "cached": 0, "output": 0}
        self.by_model: Counter[str] = Counter()
        self.told: dict[str, Counter[str]] = {}
        self.by_path: Counter[str] = Counter()
        self.by_purpose: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.refused = 0
        self.last: deque[dict[str, Any]] = deque(maxlen=LAST)

    def stats(self) -> dict[str, Any]:
        """The counts, and the last calls in short."""
        return {
            "calls": self.calls,
            "open": self.open,
            "by_model": self.by_model,
            "told": self.told,
            "by_path": self.by_path,
            "by_purpose": self.by_purpose,
            "input_tokens": self.tokens["input"],
            "cached_tokens": self.tokens["cached"],
            "output_tokens": self.tokens["output"],
            "faults": self.faults,
            "refused": self.refused,
            "last": list(self.last),
        }

    def take(self, path: str, asked: Asked) -> tuple[Answer, Rule | None, Fault | None]:
        """Counts a call and decides what it gets."""
        fault = self._faults.draw(asked)
        rule = self.profile.rule(asked)
        rule = rule and rule.filled(asked)
        answer = self._answer(asked, rule)
        if fault is not None:
            self.faults[fault.kind] += 1
            if fault.kind == "truncated_tool_json":
                answer = _truncated(answer)
        self.calls += 1
        self.by_path[path] += 1
        self.by_model[asked.model] += 1
        self.by_purpose[asked.purpose or "-"] += 1
        for name, count in (("input", answer.input_tokens), ("cached", answer.cached_tokens), ("output", answer.output_tokens)):
            self.tokens[name] += count
        self.last.append(_in_short(path, asked, answer, fault))
        return answer, rule, fault

    def tell(self, model: str, told: wire.Told) -> None:
        """Counts what the reply to one call has told of its tokens."""
        counts = self.told.setdefault(model, Counter())
        counts["calls"] += told.input_tokens > 0
        for name, count in asdict(told).items():
            counts[name] += count

    def _answer(self, asked: Asked, rule: Rule | None) -> Answer:
        calls: tuple[ToolUse, ...]
        prefix = "call_" if asked.provider == "openai" else "toolu_"
        if rule is not None and (rule.text is not None or rule.tool_calls or rule.json_ is not None):
            text = rule.text or ("" if rule.json_ is None else json.dumps(rule.json_, ensure_ascii=False))
            calls = tuple(
                ToolUse(
                    c.id or prefix + uuid.uuid4().hex[:20],
                    c.name,
                    c.arguments if isinstance(c.arguments, str) else json.dumps(c.arguments, ensure_ascii=False),
                )
                for c in rule.tool_calls
            )
        else:
            decision: Decision = decide(asked)
            text = decision.text
            calls = tuple(
                ToolUse(prefix + uuid.uuid4().hex[:20], name, json.dumps(args, ensure_ascii=False)) for name, args in decision.calls
            )
        spent, cached = self._input(asked)
        written = spent - cached if self.profile.cache_writes and asked.provider == "anthropic" and spent >= MIN_CACHED_TOKENS else 0
        out = read.tokens(text) + sum(8 + read.tokens(c.arguments) for c in calls)
        return Answer(uuid.uuid4().hex[:24], asked.model, text, calls, spent, cached, max(1, out), written)

    def _input(self, asked: Asked) -> tuple[int, int]:
        """Input tokens, and the part of them that an earlier call began with in the same way."""
        total = cached = 0
        digest = hashlib.sha256(f"{asked.provider} {asked.model}".encode())
        for piece in asked.pieces:
            total += read.tokens(piece)
            if self.profile.cache:
                digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
                key = digest.digest()
                if key in self._prefixes:
                    cached = total
                self._prefixes[key] = total
                self._prefixes.move_to_end(key)
        while len(self._prefixes) > self._max_prefixes:
            self._prefixes.popitem(last=False)
        return total, cached if cached >= MIN_CACHED_TOKENS else 0


STATE = web.AppKey("simulator", Simulator)


def create_app(profile: Profile | None = None) -> web.Application:
    """The simulator as an aiohttp application. Without a profile the built-in model answers, at a pace pleasant to read."""
    app = web.Application(client_max_size=MAX_BODY)
    app[STATE] = Simulator(profile or Profile())
    for base in ("", "/v1"):
        app.router.add_post(base + "/chat/completions", _openai)
        app.router.add_post(base + "/messages", _anthropic)
        app.router.add_get(base + "/models", _models)
    app.router.add_get("/stats", _stats)
    app.router.add_post("/reset", _reset)
    return app


@asynccontextmanager
async def running(profile: Profile | None = None, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, Simulator]]:
    """A running simulator: (its address without a path, its state). Port 0 takes a free one. Raises OSError when the port is taken."""
    app = create_app(profile)
    async with serving(app, host, port) as url:
        yield url, app[STATE]


def run(port: int = 8900, profile: Profile | None = None, host: str = "127.0.0.1") -> None:
    """Serves until SIGINT or SIGTERM. Raises OSError when the port is taken."""
    asyncio.run(serve_forever(create_app(profile), host, port))


async def _openai(request: web.Request) -> web.StreamResponse:
    return await _reply(request, "openai")


async def _anthropic(request: web.Request) -> web.StreamResponse:
    return await _reply(request, "anthropic")


async def _models(request: web.Request) -> web.Response:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in MODELS]
    return web.json_response({"object": "list", "data": data})


async def _stats(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].stats())


async def _reset(request: web.Request) -> web.Response:
    request.app[STATE].reset()
    return web.json_response({"reset": True})


async def _reply(request: web.Request, provider: str) -> web.StreamResponse:
    simulator = request.app[STATE]
    simulator.open += 1
    try:
        try:
            doc = json.loads(await request.read())
            purpose = request.headers.get("X-Loadsplit-Purpose", "")
            asked = read.openai(doc, purpose) if provider == "openai" else read.anthropic(doc, purpose)
        except (BadRequest, ValueError, KeyError, TypeError, AttributeError) as e:  # any shape of body is the caller's doing
            simulator.refused += 1
            return web.json_response(wire.error_body(provider, "invalid_request_error", f"{e or type(e).__name__}"), status=400)
        answer, rule, fault = simulator.take(request.path, asked)
        first = rule.first_token_ms if rule and rule.first_token_ms is not None else simulator.profile.first_token_ms
        pause = rule.token_ms if rule and rule.token_ms is not None else simulator.profile.token_ms
        if fault is not None and (fault.kind in _STATUS_FAULTS or fault.kind == "spend_limit"):
            return _status_fault(fault, provider)
        if asked.stream:
            return await _stream(request, asked, answer, fault, first / 1000, pause / 1000)
        await asyncio.sleep((first + pause * answer.output_tokens) / 1000)
        return await _document(request, asked, answer, fault)
    finally:
        simulator.open -= 1


def _status_fault(fault: Fault, provider: str) -> web.Response:
    code: str | None
    if fault.kind == "spend_limit":
        status, kind, message, code = 429, "insufficient_quota", "simulated: the spend limit is reached", "insufficient_quota"
        if provider == "anthropic":
            body = wire.error_body(provider, "rate_limit_error", message)
            body["error"]["details"] = {"error_code": "enforced_spend_limit_reached"}
            return web.json_response(body, status=status)
    else:
        status, kind, message, code = _STATUS_FAULTS[fault.kind]
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return web.json_response(wire.error_body(provider, kind, message, code), status=status, headers=headers)


async def _document(request: web.Request, asked: Asked, answer: Answer, fault: Fault | None) -> web.StreamResponse:
    body = json.dumps(wire.openai_json(answer) if asked.provider == "openai" else wire.anthropic_json(answer), ensure_ascii=False).encode()
    kind = fault.kind if fault is not None else ""
    if kind not in ("reset", "eof", "garbage", "error_event") and request.transport is not None and not request.transport.is_closing():
        request.app[STATE].tell(asked.model, wire.told_whole(answer))
    if kind == "stall" and fault is not None:
        await asyncio.sleep(fault.seconds)
    elif kind == "reset":
        _abort(request)
    elif kind == "eof":
        body = b""
    elif kind == "garbage":
        body = body[: len(body) // 2]
    elif kind == "error_event":
        body = json.dumps(_error_event(asked.provider)).encode()
    return web.Response(body=body, content_type="application/json")


async def _stream(
    request: web.Request, asked: Asked, answer: Answer, fault: Fault | None, first: float, pause: float
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    events: Iterator[tuple[bytes, bool]] = (
        wire.openai_events(answer, asked.usage_in_stream) if asked.provider == "openai" else wire.anthropic_events(answer)
    )
    await asyncio.sleep(first)
    await response.prepare(request)
    pen = _Pen(response, answer)
    try:
        return await _write(request, pen, events, asked, fault, pause)
    finally:
        request.app[STATE].tell(asked.model, pen.told)


async def _write(
    request: web.Request, pen: _Pen, events: Iterator[tuple[bytes, bool]], asked: Asked, fault: Fault | None, pause: float
) -> web.StreamResponse:
    """The events of a stream, as far as the fault lets them come."""
    sent = 0
    strikes = fault is not None and fault.kind not in ("held_open", "truncated_tool_json")
    for event, is_token in events:
        last = event.startswith((b"data: [DONE]", b"event: message_delta")) or b'"finish_reason":"' in event
        if strikes and fault is not None and ((is_token and sent >= fault.after_tokens) or last):
            await pen.flush()
            if await _strike(request, pen.response, fault, asked.provider):
                return pen.response
            strikes = False
        pen.add(event)
        sent += is_token
        if pause and is_token:
            await pen.flush()
            await asyncio.sleep(pause)
    await pen.flush()
    if fault is not None and fault.kind == "held_open":
        await asyncio.sleep(fault.seconds)
    return pen.response


class _Pen:
    """Writes the events of one stream, several at once, and knows what of the tokens they have told."""

    def __init__(self, response: web.StreamResponse, answer: Answer) -> None:
        self.response, self._answer = response, answer
        self.told = self._telling = wire.Told()
        self._batch: list[bytes] = []

    def add(self, event: bytes) -> None:
        """Takes an event."""
        self._batch.append(event)
        self._telling = wire.told_by(event, self._answer) or self._telling

    async def flush(self) -> None:
        """Sends what was taken."""
        await self.response.write(b"".join(self._batch))
        self._batch.clear()
        self.told = self._telling


async def _strike(request: web.Request, response: web.StreamResponse, fault: Fault, provider: str) -> bool:
    """Does what the fault says in the middle of a stream. True when the stream is over with it."""
    if fault.kind == "stall":
        await asyncio.sleep(fault.seconds)
        return False
    if fault.kind == "reset":
        _abort(request)
    elif fault.kind == "garbage":
        await response.write(b'data: {"not json\n\n')
    elif fault.kind == "error_event":
        prefix = b"event: error\n" if provider == "anthropic" else b""
        await response.write(prefix + b"data: " + json.dumps(_error_event(provider)).encode() + b"\n\n")
    return True  # eof: a clean end, much too early


def _error_event(provider: str) -> dict[str, Any]:
    return wire.error_body(provider, "overloaded_error" if provider == "anthropic" else "server_error", "simulated: an error in the stream")


def _abort(request: web.Request) -> None:
    """A reset instead of an orderly end."""
    if request.transport is not None:
        request.transport.abort()


def _truncated(answer: Answer) -> Answer:
    cut = tuple(
        ToolUse(c.id, c.name, c.arguments[: max(1, len(c.arguments) * 2 // 3)] if len(c.arguments) > 2 else "{") for c in answer.calls
    )
    return replace(answer, calls=cut)


def _in_short(path: str, asked: Asked, answer: Answer, fault: Fault | None) -> dict[str, Any]:
    return {
        "path": path,
        "model": asked.model,
        "purpose": asked.purpose,
        "system": asked.system[:300],
        "user": asked.user[:300],
        "tools": [t.name for t in asked.tools],
        "tool_choice": asked.choice,
        "tool_results": len(asked.results),
        "messages": len(asked.pieces) - 1,
        "stream": asked.stream,
        "text": answer.text[:300],
        "tool_calls": [{"name": c.name, "arguments": c.arguments[:300]} for c in answer.calls],
        "fault": fault.kind if fault is not None else None,
    }
