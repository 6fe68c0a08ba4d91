"""The LLM gateway from outside: `models/<alias>` on /v1/chat/completions and /v1/messages, for keys with the scope `llm`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

import orjson

from common.contracts.chat import BODY_LIMIT, MODELS
from common.contracts.completions import error_chunk
from common.contracts.llm_errors import ModelNotFound, anthropic_error
from common.errors import DeadlineExceeded, InvalidRequest, LoadsplitError
from common.web.asgi import ClientDisconnected, Receive, Scope, Send, header, read_body, request_id, send_json
from common.web.sse import CUT, SSEWriter
from heavy.llm.legs import Ask, Spender
from heavy.llm.relay import Call, Refused
from heavy.llm.relayed_body import Provider, read
from heavy.routes.query import read_deadline
from heavy.routes.state import Heavy, credentials, heavy_of

MESSAGES = "/messages"
COUNT_TOKENS = "/messages/count_tokens"
ANTHROPIC_VERSION = "2023-06-01"
PURPOSE = "relay"
_OTHER = {
    "openai": "this model speaks Anthropic's protocol: use POST /v1/messages",
    "anthropic": "this model speaks OpenAI's protocol: use POST /v1/chat/completions",
}
T = TypeVar("T")


class Messages:
    """POST /v1/messages, and the same for `count_tokens`: a plain ASGI callable."""

    def __init__(self, path: str = MESSAGES) -> None:
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        heavy = heavy_of(scope)
        body = await read_body(scope, receive, BODY_LIMIT)
        headers = {"anthropic-version": _given(scope, b"anthropic-version") or ANTHROPIC_VERSION}
        if beta := _given(scope, b"anthropic-beta"):
            headers["anthropic-beta"] = beta
        await _relay(heavy, scope, receive, send, body, "anthropic", self._path, headers)


async def relay_openai(heavy: Heavy, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
    """A chat completion of a model that is named directly. Raises Forbidden, ModelNotFound, InvalidRequest and what the call raises."""
    await _relay(heavy, scope, receive, send, body, "openai", "/chat/completions", {})


async def _relay(
    heavy: Heavy, scope: Scope, receive: Receive, send: Send, body: bytes, provider: Provider, path: str, headers: dict[str, str]
) -> None:
    caller = heavy.keys.authenticate(credentials(scope))
    caller.need("llm")
    relayed = read(body, provider)
    targets = heavy.relay.catalogue().get(relayed.model.removeprefix(MODELS), ())
    if not relayed.model.startswith(MODELS) or not targets:
        raise ModelNotFound(relayed.model)
    if all(target.provider != provider for target in targets):
        raise InvalidRequest(_OTHER[provider], field="model")
    deadline = read_deadline(scope)
    left = None if deadline is None else deadline - time.time()
    if left is not None and left <= 0:
        raise DeadlineExceeded("the time for this request is over before the LLM could be asked")
    spender = Spender(tenant=caller.tenant, key_id=caller.key_id, purpose=PURPOSE)
    ask = Ask(relayed.model.removeprefix(MODELS), spender, relayed.tokens, relayed.most_output, left, provider, relayed.streaming)
    call = Call(path, relayed, headers, counts=path != COUNT_TOKENS)
    try:
        async with heavy.turns.entrance.place(caller.tenant, deadline, {}):
            if relayed.streaming and call.counts:
                async with heavy.quotas.stream(caller.tenant, credentials(scope)):
                    await _stream(heavy, scope, receive, send, ask, call)
            else:
                await _whole(heavy, scope, receive, send, ask, call)
    except Refused as e:
        await send_json(send, e.told_status, e.told_body, [(b"cache-control", b"no-store"), (b"x-should-retry", b"false")])


async def _whole(heavy: Heavy, scope: Scope, receive: Receive, send: Send, ask: Ask, call: Call) -> None:
    answer = await _unless_gone(heavy.relay.whole(ask, call), receive)
    headers = [(b"x-loadsplit-target", answer.target.name.encode()), (b"request-id", request_id(scope).encode())]
    if call.counts:
        headers.append((b"x-loadsplit-cost-usd", b"%.9f" % answer.usage.cost_usd))
    await send_json(send, 200, answer.body, headers)


async def _stream(heavy: Heavy, scope: Scope, receive: Receive, send: Send, ask: Ask, call: Call) -> None:
    """Headers leave with the first bytes of the answer: until then an error has its status, and another target may take over."""
    pieces = heavy.relay.stream(ask, call)
    try:
        first = await _unless_gone(anext(pieces), receive)
        headers = [(b"request-id", request_id(scope).encode())]
        writer = SSEWriter(receive, send, headers=headers, cut=scope.get(CUT), opening=b"")
        await writer.run(_after(first, pieces, request_id(scope), ask.provider))
    finally:
        await pieces.aclose()


async def _after(first: bytes, pieces: AsyncGenerator[bytes, None], rid: str, provider: Provider | None) -> AsyncIterator[bytes]:
    """All bytes; an error is an event of the protocol, and the last one."""
    try:
        yield first
        async for piece in pieces:
            yield piece
    except LoadsplitError as e:
        if provider == "openai":
            yield error_chunk(e, rid)
        else:
            yield b"event: error\ndata: " + orjson.dumps(anthropic_error(e, rid), default=str) + b"\n\n"
    finally:
        await pieces.aclose()


async def _unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What the work gives. A client that leaves ends it at once, and with it the call. Raises ClientDisconnected then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait((task, gone))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _given(scope: Scope, name: bytes) -> str:
    value = header(scope, name)
    return value.decode("latin-1") if value is not None else ""
