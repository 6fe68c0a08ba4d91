"""POST /v1/chat/completions in the heavy tier: an agent behind OpenAI's protocol. `models/<alias>` is for heavy.routes.relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import orjson

from common.contracts import ticket as tickets
from common.contracts.chat import BODY_LIMIT, Chat, asked_model, new_session, parse_chat, session_of_key
from common.contracts.completions import Chunks, completion, error_chunk, refused
from common.contracts.events import AWAITING_APPROVAL, event_type
from common.contracts.idempotency import HEADER, keyed
from common.contracts.llm_errors import ModelNotFound
from common.contracts.query import new_turn_id
from common.errors import LoadsplitError
from common.hotstore.conversations import Conversations
from common.web.asgi import Headers, Receive, Scope, Send, header, read_body, request_id, send_json
from common.web.sse import CUT, SSEWriter
from heavy.agent.form import Form
from heavy.routes.query import EndedWith, TurnCancelled, accept, admit, outcome_of, pauses, replayed
from heavy.routes.relay import relay_openai
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.routes.stream import GONE, bunches, cancels_on_disconnect
from heavy.turns.given import take_in
from heavy.turns.life import Submitted

# A turn that fails before it has said anything is answered with its status, if it fails within this time; then the stream begins.
SILENT_SECONDS = 5.0
_TEXT = b'{"type":"text","data":{"delta":'


class ChatEndpoint:
    """A plain ASGI callable."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        heavy = heavy_of(scope)
        body = await read_body(scope, receive, BODY_LIMIT)
        if asked_model(body) is not None:
            await relay_openai(heavy, scope, receive, send, body)
            return
        chat = parse_chat(body)
        if not heavy.agents.serves(chat.model):
            raise ModelNotFound(chat.model)
        if chat.form is not None:
            Form(chat.form)  # raises
        cancels = chat.stream and cancels_on_disconnect(scope)
        query = chat.query(await _session(heavy, scope, chat))
        admission = await admit(heavy, scope, query)
        if chat.session_id is None and chat.history:
            await heavy.mover.settle(admission.tenant, query.session_id)
            workflow = (await heavy.agents.choose(chat.model, admission.tenant, query.session_id, admission.config_hash)).workflow
            await take_in(heavy.stores, workflow, admission.tenant, query.session_id, chat.history, chat.user_id)
        talk = _Talk(heavy, chat, admission.tenant)
        if not chat.stream:
            submitted = await accept(heavy, scope, query, admission, streaming=False)
            reply = orjson.loads(await outcome_of(heavy, admission.tenant, submitted))
            await talk.keep(reply["session_id"], reply["message"])
            await send_json(send, 200, completion(reply, chat.model, formed=chat.form is not None), replayed(submitted))
            return
        async with heavy.quotas.stream(admission.tenant):
            submitted = await accept(heavy, scope, query, admission, streaming=True)
            await _stream(talk, scope, receive, send, submitted, cancels=cancels, headers=replayed(submitted))


async def _session(heavy: Heavy, scope: Scope, chat: Chat) -> str:
    """The session of a request: the one that it names, that the rule tier has found, or that the conversation has come to."""
    if chat.session_id is not None:
        return chat.session_id
    ticket = header(scope, tickets.HEADER.encode())
    if ticket is not None:
        return tickets.verify(ticket.decode("latin-1"), heavy.settings.ticket_key, late=True).session_id
    tenant = caller_of(scope).tenant
    key = keyed(header(scope, HEADER), tenant, None, heavy.settings.ticket_key)
    if key is not None:
        return session_of_key(key.digest, chat.history)
    return await Conversations(heavy.hotstore).take(tenant, chat.model, chat.history) or new_session(new_turn_id())


class _Talk:
    """One request and where its answer leads."""

    def __init__(self, heavy: Heavy, chat: Chat, tenant: str) -> None:
        self.heavy, self.chat, self.tenant = heavy, chat, tenant

    async def keep(self, session_id: str, answer: str) -> None:
        """What the client will send before its next message leads to this session."""
        chat = self.chat
        if chat.session_id is None:
            said = [*chat.history, ("user", chat.message), ("assistant", answer)]
            await Conversations(self.heavy.hotstore).keep(self.tenant, chat.model, said, session_id)


async def _stream(
    talk: _Talk, scope: Scope, receive: Receive, send: Send, submitted: Submitted, *, cancels: bool, headers: Headers
) -> None:
    chunks = _chunks(talk, submitted, request_id(scope))
    first = asyncio.ensure_future(anext(chunks))
    try:
        await asyncio.wait([first], timeout=SILENT_SECONDS)
        if first.done():
            first.result()  # raises what a reply that was not streamed would have been
        writer = SSEWriter(receive, send, headers=headers, cut=scope.get(CUT), opening=b"")
        finished = await writer.run(_after(first, chunks, request_id(scope)))
    except LoadsplitError as e:
        e.replayed = submitted.replayed
        raise
    finally:
        first.cancel()
        await asyncio.wait([first])
        await chunks.aclose()
    if not finished and cancels:
        heavy, turn = talk.heavy, submitted.turn
        await heavy.stores.turns.cancel(talk.tenant, turn.turn_id, reason=GONE)
        await heavy.owner.cancel_anywhere(turn.turn_id, GONE)


async def _after(first: asyncio.Future[bytes], chunks: AsyncGenerator[bytes], rid: str) -> AsyncIterator[bytes]:
    """All chunks; an error is one of them."""
    try:
        yield await first
        async for chunk in chunks:
            yield chunk
    except LoadsplitError as e:
        yield error_chunk(e, rid)


async def _chunks(talk: _Talk, submitted: Submitted, rid: str) -> AsyncGenerator[bytes]:
    """The turn's events as chunks. Raises what ended it otherwise than with an answer."""
    heavy, chat, turn_id = talk.heavy, talk.chat, submitted.turn.turn_id
    chunks = Chunks(turn_id, chat.model, include_usage=chat.include_usage)
    said: list[bytes] = []
    waiting = chunks.opening()  # goes with the first words
    async with contextlib.aclosing(bunches(heavy, talk.tenant, submitted.turn, 0, rid)) as bunched:
        async for _, lines in bunched:
            out = []
            for line in lines:
                if line.startswith(_TEXT):
                    said.append(line[len(_TEXT) : -2])
                    if chat.form is not None:  # whether it is data is known at the end
                        continue
                    out.append(chunks.text(said[-1]))
                    continue
                reply = await _reply(talk, turn_id, line)
                if reply is None:
                    continue
                text = "".join(map(orjson.loads, said))
                if chat.form is not None:
                    said_as = chunks.refusal if refused(reply, formed=True) else chunks.text
                    out.append(said_as(orjson.dumps(reply["message"])))
                elif reply["message"] != text:  # what a person is asked comes behind what was said
                    out.append(chunks.text(orjson.dumps(reply["message"].removeprefix(text))))
                await talk.keep(reply["session_id"], reply["message"])
                yield waiting + b"".join(out) + chunks.closing(reply)
                return
            if out:
                yield waiting + b"".join(out)
                waiting = b""


async def _reply(talk: _Talk, turn_id: str, line: bytes) -> dict | None:
    """The reply that an event brings, None where it brings none. Raises what ends the turn otherwise."""
    kind = event_type(line)
    if kind == "complete":
        return orjson.loads(line)["data"]
    if kind == AWAITING_APPROVAL and await pauses(talk.heavy, talk.tenant, turn_id, line):
        row = await talk.heavy.reader.open(talk.tenant, turn_id)
        return dict(row.reply or {}) or None
    if kind == "error":
        raise EndedWith(orjson.loads(line)["data"])
    if kind == "cancelled":
        raise TurnCancelled("the turn was cancelled before it ended", turn_id=turn_id)
    return None
