"""Writes what happens to a session without a turn of the bot, and tells who must know of it: the rule tier by the gate, watchers by the
session's channel.
"""

from __future__ import annotations

import asyncio
import contextlib

from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.gates import Gates
from heavy.turns.rows import Note, SessionRow
from heavy.turns.stores import SessionStore


async def tell(hotstore: HotStore, tenant: str, session_id: str) -> None:
    """Wakes who follows the session's events, and who delivers them to webhooks, on every replica. Without a hot store they look for
    themselves."""
    with contextlib.suppress(HotStoreUnavailable):
        await asyncio.gather(hotstore.publish(keys.session_channel(tenant, session_id), b""), hotstore.publish(keys.DELIVERIES, b""))


async def tell_deliverers(hotstore: HotStore) -> None:
    """The same for messages to webhooks that are no session's."""
    with contextlib.suppress(HotStoreUnavailable):
        await hotstore.publish(keys.DELIVERIES, b"")


class Notes:
    """The one door for notes."""

    def __init__(self, sessions: SessionStore, hotstore: HotStore, gates: Gates) -> None:
        self._sessions = sessions
        self._hotstore = hotstore
        self._gates = gates

    async def write(self, note: Note) -> SessionRow | None:
        """The session afterwards; None, and nothing changed, when the note does not hold. Raises DatabaseUnavailable."""
        session = await self._sessions.note(note)
        if session is not None:
            await asyncio.gather(self._gates.show(session), tell(self._hotstore, note.tenant, note.session_id))
        return session
