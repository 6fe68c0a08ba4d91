"""The events of a turn for one reader: replay after a number, then live, from whichever replica has them. It knows no SSE.

Three sources, in this order: the log of a turn that runs in this process; the log in the hot store; and, for an ended turn whose log is
not there, the turn's row in the database, from which start, route, text and the terminal event can be told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

from common.contracts.events import TERMINAL, Event, event_type, payload
from common.errors import Gone, NotFound
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.log import text_of
from heavy.turns.owner import TurnOwner
from heavy.turns.stores import TurnRow, TurnStore

POLL_SECONDS = (0.02, 0.05, 0.1, 0.2)
STATE_CHECK_SECONDS = 2.0


class TurnReader:
    """Follows turns of any replica."""

    def __init__(self, turns: TurnStore, hotstore: HotStore, owner: TurnOwner) -> None:
        self._turns = turns
        self._hotstore = hotstore
        self._owner = owner

    async def open(self, tenant: str, turn_id: str) -> TurnRow:
        """The turn, if this tenant may read its stream. Raises NotFound, or Gone once its log has expired."""
        row = await self._turns.get(tenant, turn_id)
        if row is None:
            raise NotFound("there is no such turn")
        if row.finished_at is not None and time.time() - row.finished_at > keys.EVENTS_TTL:
            raise Gone("the events of this turn are kept for one hour after its end; GET /api/v1/turns/{id} has the result")
        return row

    async def follow(self, row: TurnRow, after: int) -> AsyncGenerator[tuple[int, bytes]]:
        """(id, line) of every event after number `after`, until the terminal one. Raises NotFound when the turn is deleted meanwhile."""
        position = after
        while True:
            owned = self._owner.get(row.turn_id)
            here = owned is not None and not owned.events.abandoned
            source = owned.events.follow(position) if owned and here else self._follow_hotstore(row, position)
            async with contextlib.aclosing(source) as lines:
                async for position, line in lines:
                    yield position, line
                    if event_type(line) in TERMINAL:
                        return
            # the source ended without a terminal event: the turn moved to another node, or only the database knows its end
            again = await self._turns.get(row.tenant, row.turn_id)
            if again is None:
                raise NotFound("the turn was deleted")
            row = again
            if row.finished_at is not None:
                for last in await self._rest(row, position):
                    yield last
                return

    async def _rest(self, row: TurnRow, after: int) -> list[tuple[int, bytes]]:
        """The last events of an ended turn whose log lacks them: the node died between the commit and the log, or the log is lost."""
        told = await self._logged(row, 0)
        if told and event_type(told[-1]) in TERMINAL:
            return list(enumerate(told[after:], after + 1))
        told += retell(row, told)
        # A reader that has seen more than can be told again still learns how the turn ended.
        return list(enumerate(told[after:], after + 1)) or [(after + 1, told[-1])]

    async def _logged(self, row: TurnRow, after: int) -> list[bytes]:
        try:
            return list(await self._hotstore.log_read(keys.events(row.turn_id), after))
        except HotStoreUnavailable:
            return []

    async def _follow_hotstore(self, row: TurnRow, after: int) -> AsyncGenerator[tuple[int, bytes]]:
        position, quiet, looked = after, 0, time.monotonic()
        while True:
            lines = await self._logged(row, position)
            for line in lines:
                position += 1
                yield position, line
            quiet = 0 if lines else min(quiet + 1, len(POLL_SECONDS) - 1)
            ended = row.finished_at is not None
            if not lines and (ended or time.monotonic() - looked > STATE_CHECK_SECONDS):
                looked = time.monotonic()
                fresh = await self._turns.get(row.tenant, row.turn_id)
                owned = self._owner.get(row.turn_id)
                if ended or fresh is None or fresh.finished_at is not None or (owned is not None and not owned.events.abandoned):
                    return
            await asyncio.sleep(POLL_SECONDS[quiet])


def retell(row: TurnRow, told: Sequence[bytes] = ()) -> list[bytes]:
    """The events of an ended turn from its row alone, behind those that are `told` already: tool calls are not told again."""
    types = {event_type(line) for line in told}
    start = Event("start", {"turn_id": row.turn_id, "session_id": row.session_id, "config_hash": row.config_hash})
    events = [] if "start" in types else [start]
    reply = row.reply
    if row.state == "done" and reply is not None:
        if "route" not in types:
            events.append(Event("route", reply["route"]))
        if rest := reply["message"].removeprefix(text_of(told)):
            events.append(Event("text", {"delta": rest}))
        events.append(Event("complete", reply))
    elif row.state == "failed":
        events.append(Event("error", row.error))
    else:
        events.append(Event("cancelled", {"reason": "cancelled"}))
    return [payload(e) for e in events]
