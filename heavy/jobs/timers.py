"""Fires what is due: a workflow's timers become turns, and a user whom no human answered in time is told.

Every replica looks every second; a timer is held by one of them at a time, and fires once whatever dies: its turn has an id of its own.
"""

from __future__ import annotations

import asyncio
import logging

from common.errors import LoadsplitError
from heavy.agent.prompts import language_of
from heavy.jobs.journal import JournalMover
from heavy.turns import handoff
from heavy.turns.agents import Agents
from heavy.turns.life import Turns
from heavy.turns.notes import Notes
from heavy.turns.rows import SessionRow, TimerRow
from heavy.turns.stores import DatabaseUnavailable, Stores
from heavy.turns.timers import turn_id

EVERY_SECONDS = 1.0
HOLD_SECONDS = 30.0  # longer than firing takes, and how late a timer may be whose node has died
AT_ONCE = 32
READ_BACK = 20
MUTE = ("transferred", "closed")
log = logging.getLogger(__name__)


class Timers:
    """The look-out of one process."""

    def __init__(self, stores: Stores, agents: Agents, turns: Turns, notes: Notes, mover: JournalMover) -> None:
        self._stores = stores
        self._agents = agents
        self._turns = turns
        self._notes = notes
        self._mover = mover

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                full = await self.fire_due() == AT_ONCE
            except DatabaseUnavailable as e:
                log.warning("no timers fired: %s", e.detail)
                full = False
            await asyncio.sleep(0 if full else EVERY_SECONDS)

    async def fire_due(self) -> int:
        """Fires what is due now, as many at once as this node takes turns; how many that were. One that fails is due again later."""
        room = min(AT_ONCE, self._turns.room)
        if room <= 0:
            return 0
        due = await self._stores.timers.due(hold_seconds=HOLD_SECONDS, limit=room)
        await asyncio.gather(*(self._settle(timer) for timer in due))
        return len(due)

    async def _settle(self, timer: TimerRow) -> None:
        try:
            await (self._fire(timer) if timer.kind == "timer" else self._remind(timer))
            await self._stores.timers.done(timer)
        except LoadsplitError as e:
            log.warning("timer %s of session %s waits: %s", timer.timer_id, timer.session_id, e.detail)

    async def _fire(self, timer: TimerRow) -> None:
        """Runs a timer whose session has been silent since. What a rule answered meanwhile may not be in the database yet."""
        if not self._agents.serves(timer.agent_id):
            return
        await self._mover.settle(timer.tenant, timer.session_id)
        session = await self._stores.sessions.get(timer.tenant, timer.session_id)
        if session is None or session.turn_seq != timer.seq or session.active or session.status in MUTE:
            return
        await self._turns.fire(timer, await self._agents.choose(timer.agent_id, timer.tenant, timer.session_id))

    async def _remind(self, timer: TimerRow) -> None:
        """Tells the user that no human has come in time, if that is still so."""
        session = await self._stores.sessions.get(timer.tenant, timer.session_id)
        if session is None:
            return
        workflow = (await self._agents.of_turn(session.agent_id, session.config_hash)).workflow
        note = handoff.overdue(session, timer.seq, turn_id(timer), language_of(workflow, await self._last_words(session)))
        if note is not None:
            await self._notes.write(note)

    async def _last_words(self, session: SessionRow) -> str:
        stored = await self._stores.sessions.messages(session.tenant, session.session_id, limit=READ_BACK)
        return next((s.message.content for s in reversed(stored) if s.message.role == "user" and s.message.author is None), "")
