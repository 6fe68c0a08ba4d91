"""POST /v1/chat/completions in the rule tier: the hot path behind OpenAI's protocol. What asks for a model directly is for heavy."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson

from common.contracts.chat import BODY_LIMIT, Chat, asked_model, new_session, parse_chat, session_of_key
from common.contracts.completions import Chunks, completion
from common.contracts.idempotency import HEADER, keyed
from common.contracts.llm_errors import ModelNotFound
from common.contracts.query import new_turn_id
from common.errors import MethodNotAllowed
from common.hotstore.conversations import Conversations
from common.web.asgi import Receive, Scope, Send, header, read_body
from lightweight.agents import Agent
from lightweight.answer import Answer, Turn
from lightweight.query.endpoint import EVENTS, JSON, QueryEndpoint, send_answer


class ChatEndpoint(QueryEndpoint):
    """Answers requests to agents by rule and hands the others on. `conversations` knows the sessions of clients that name none."""

    def __init__(self, *given: Any, conversations: Conversations, **collaborators: Any) -> None:
        super().__init__(*given, **collaborators, kind="chat")
        self._conversations = conversations

    async def _serve(self, scope: Scope, receive: Receive, send: Send, began: float) -> int:
        if scope["method"] != "POST":
            raise MethodNotAllowed("use POST here")
        caller = self._keys.authenticate(scope["headers"])
        body = await read_body(scope, receive, BODY_LIMIT)
        if asked_model(body) is not None:  # heavy looks at the key itself; any replica will do
            self._handoffs.inc()
            await self._onward(scope, receive, send, body, "", f"{caller.tenant}/{new_turn_id()}")
            return 200
        caller.need("query")
        if caller.limits.requests_per_minute is not None:
            await self._rate.count(caller.tenant, caller.limits)
        chat = parse_chat(body)
        if self._agents.name_of(chat.model) is None and not self._agents.empty:
            raise ModelNotFound(chat.model)
        session_id, known = await self._session(scope, caller.tenant, chat)
        asked = (chat.model, caller.tenant, session_id)
        agent = self._agents.at_hand(*asked) or await self._agents.choose(*asked)
        reply = partial(self._reply_chat, chat)
        query = chat.query(session_id)
        return await self._decide(
            scope, receive, send, body, caller.tenant, agent, query, began, reply, hand_on=not known or chat.form is not None
        )

    async def _session(self, scope: Scope, tenant: str, chat: Chat) -> tuple[str, bool]:
        """The session of a request, and whether all that was said before is in it: heavy stores what is not."""
        if chat.session_id is not None:
            return chat.session_id, True
        key = keyed(header(scope, HEADER), tenant, None, self._ticket_key)
        if key is not None:
            return session_of_key(key.digest, chat.history), not chat.history
        taken = await self._conversations.take(tenant, chat.model, chat.history)
        return taken or new_session(new_turn_id()), taken is not None or not chat.history

    async def _reply_chat(
        self, chat: Chat, send: Send, agent: Agent, turn: Turn, answer: Answer | bytes, rid: str, matched: float, began: float
    ) -> None:
        """The reply as a completion, or as the whole stream of it."""
        reply = orjson.loads(answer if isinstance(answer, bytes) else answer.reply)
        if chat.session_id is None:
            talk = [*chat.history, ("user", chat.message), ("assistant", reply["message"])]
            await self._conversations.keep(turn.tenant, chat.model, talk, reply["session_id"])
        content, body = JSON, b""
        if chat.stream:
            content, chunks = EVENTS, Chunks(reply["turn_id"], chat.model, include_usage=chat.include_usage)
            text = chunks.text(orjson.dumps(reply["message"])) if reply["message"] else b""
            body = chunks.opening() + text + chunks.closing(reply)
        else:
            body = completion(reply, chat.model)
        await send_answer(send, content, body, rid, agent.config_hash, matched, began, replayed=isinstance(answer, bytes))
