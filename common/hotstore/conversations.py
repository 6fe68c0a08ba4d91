"""Which session a conversation belongs to whose client names none: what has been said so far tells.

After each answer the session stands under the digest of the conversation as the client will send it next time. The first request that comes
with it takes the session; another one with the same words (a question asked again, a second person who began alike) begins a session of its
own with the history that it brings. So nobody lands in a session that has gone on without him. All of it may be lost: then a conversation
goes on in a new session.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from common.contracts.chat import Said, digest_of
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable


class Conversations:
    """One for a process."""

    def __init__(self, hotstore: HotStore) -> None:
        self._hotstore = hotstore

    async def take(self, tenant: str, agent_id: str, history: Sequence[Said]) -> str | None:
        """The session that has come to exactly this point, for this caller alone; None where there is none. Never raises."""
        if not history:
            return None
        digest = digest_of(tenant, agent_id, history)
        try:
            found = await self._hotstore.get(keys.conversation(tenant, digest))
            if found is None:
                return None
            token = secrets.token_bytes(8)
            held = await self._hotstore.claim(keys.conversation_taken(tenant, digest, found.decode()), token, keys.CONVERSATION_TTL)
        except HotStoreUnavailable:
            return None
        return found.decode() if held in (None, token) else None

    async def keep(self, tenant: str, agent_id: str, conversation: Sequence[Said], session_id: str) -> None:
        """The session has come to this point. Never raises."""
        said = [one for one in conversation if one[1].strip()]
        try:
            await self._hotstore.set(
                keys.conversation(tenant, digest_of(tenant, agent_id, said)), session_id.encode(), keys.CONVERSATION_TTL
            )
        except HotStoreUnavailable:
            return
