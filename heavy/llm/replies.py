"""Replies to deterministic calls, kept for a while: the very same call gets the very same reply without asking a model.

In the hot store, by tenant; without one nothing is kept. The names of the alias's targets are part of what makes a call the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import orjson

from common.contracts.query import Usage
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.llm.aliases import Alias
from heavy.llm.types import Completed, LLMRequest, Message, ToolCall

MOST_BYTES = 64 * 1024
# An answer that was cut off or filtered is not worth keeping.
KEPT = frozenset({"stop", "tool_calls"})


class Replies:
    """The kept replies of one gateway."""

    def __init__(self, hotstore: HotStore | None) -> None:
        self._hotstore = hotstore

    def key(self, alias: Alias, request: LLMRequest) -> str | None:
        """Where the reply to a call is kept; None for a call whose reply is not."""
        if self._hotstore is None or not (alias.cache_seconds and request.deterministic and request.spender):
            return None
        same = [
            request.model,
            [target.name for target in alias.targets],
            [(m.role, m.content, [asdict(c) for c in m.tool_calls], m.tool_call_id) for m in request.messages],
            [(t.name, t.description, t.parameters) for t in request.tools],
            request.tool_choice,
            request.max_tokens,
        ]
        return keys.llm_reply(request.spender.tenant, hashlib.sha256(orjson.dumps(same)).hexdigest())

    async def find(self, key: str) -> Completed | None:
        """The reply that is kept; it costs nothing."""
        try:
            kept = await self._hotstore.get(key) if self._hotstore else None
        except HotStoreUnavailable:
            return None
        if kept is None:
            return None
        doc = orjson.loads(kept)
        message = Message("assistant", doc["text"], tuple(ToolCall(**call) for call in doc["calls"]))
        return Completed(message, Usage(), doc["finish"], doc["model"], doc["target"])

    async def keep(self, key: str, reply: Completed, seconds: float) -> None:
        """Keeps a reply."""
        if self._hotstore is None or reply.finish_reason not in KEPT:
            return
        doc = {
            "text": reply.message.content,
            "calls": [asdict(call) for call in reply.message.tool_calls],
            "finish": reply.finish_reason,
            "model": reply.model,
            "target": reply.target,
        }
        value = orjson.dumps(doc)
        if len(value) <= MOST_BYTES:
            try:
                await self._hotstore.set(key, value, seconds)
            except HotStoreUnavailable:
                return  # it is asked again
