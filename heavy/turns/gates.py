"""Shows the rule tier the state of each session, and remembers the gates that could not be written: a hot store that was away must not
come back with a rule answering in a session that a human has by now.
"""

from __future__ import annotations

import asyncio
import contextlib

from common.contracts import gate
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.rows import SessionRow
from heavy.turns.stores import DatabaseUnavailable, SessionStore

PAY_SECONDS = 0.5
MOST_OWED = 100_000


class Gates:
    """The gates that this process owes and has written."""

    def __init__(self, hotstore: HotStore, sessions: SessionStore) -> None:
        self._hotstore = hotstore
        self._sessions = sessions
        self._owed: dict[tuple[str, str], None] = {}

    async def show(self, session: SessionRow) -> None:
        """Writes the session's gate, now or as soon as the hot store is back. Never raises for a hot store that is away."""
        place = (session.tenant, session.session_id)
        try:
            await self._write(session)
            self._owed.pop(place, None)
        except HotStoreUnavailable:
            self._owed[place] = None
            while len(self._owed) > MOST_OWED:
                del self._owed[next(iter(self._owed))]

    async def pay(self) -> None:
        """Writes what is owed, from the database's truth, whenever the hot store answers. Runs until cancelled."""
        while True:
            await asyncio.sleep(PAY_SECONDS)
            with contextlib.suppress(HotStoreUnavailable, DatabaseUnavailable):  # still away: what is owed stays owed
                for place in list(self._owed):
                    session = await self._sessions.get(*place)
                    if session is not None:
                        await self._write(session)
                    self._owed.pop(place, None)

    async def _write(self, session: SessionRow) -> None:
        value = gate.write(gate.of_status(session.status, session.greeting))
        await self._hotstore.set(keys.gate(session.tenant, session.session_id), value, gate.GATE_TTL)
