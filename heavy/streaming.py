"""The events of a turn, or of a session, for one reader: replay after a number, then live, from whichever replica has them. Knows no SSE.

A turn has three sources, in this order: the log of a turn that runs in this process; the log in the hot store; and, for an ended turn
whose log is not there, the turn's row in the database, from which start, route, text and the terminal event can be told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from common.contracts.events import TERMINAL, Event, event_type, payload
from common.errors import Gone, NotFound
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.turns.log import text_of
from heavy.turns.owner import TurnOwner
from heavy.turns.rows import StoredEvent, TurnRow
from heavy.turns.stores import DatabaseUnavailable, SessionStore, TurnStore

POLL_SECONDS = (0.02, 0.05, 0.1, 0.2)
STATE_CHECK_SECONDS = 2.0
LOOK_SECONDS, LOOK_SECONDS_QUIET = 2.0, 8.0  # how often a watched session is looked at though nothing was told, and where that is long so
PAGE = 100
LOG_PAGE = 100  # events of a log that a reader holds at most: one that reads slowly must not keep the whole of it in memory
DRAIN_CHECK_SECONDS = 0.2
log = logging.getLogger(__name__)


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
        told = list(await self._logged(row, 0, None))
        if not told or event_type(told[-1]) not in TERMINAL:
            told += retell(row, told)
        # A reader that has seen more than can be told again still learns how the turn ended.
        return list(enumerate(told[after:], after + 1)) or [(after + 1, told[-1])]

    async def _logged(self, row: TurnRow, after: int, limit: int | None = LOG_PAGE) -> Sequence[bytes]:
        try:
            return await self._hotstore.log_read(keys.events(row.turn_id), after, limit)
        except HotStoreUnavailable:
            return ()

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
            if len(lines) < LOG_PAGE:  # else there may be more at once
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
        events.append(Event("cancelled", {"reason": row.cancel_reason or "cancelled"}))
    return [payload(e) for e in events]


class SessionReader:
    """Follows the events of sessions. All who watch one session here share one subscription and one look at the database in between; each
    then reads the events themselves, a page at a time, so that a slow reader holds no more than that."""

    def __init__(self, sessions: SessionStore, hotstore: HotStore, draining: Callable[[], bool]) -> None:
        self._sessions = sessions
        self._hotstore = hotstore
        self._draining = draining
        self._watches: dict[tuple[str, str], _Watch] = {}

    async def follow(self, tenant: str, session_id: str, after: int) -> AsyncGenerator[StoredEvent]:
        """Every event with an id above `after`, then live; the session need not exist yet. Ends when this process drains.

        An id that the session has not reached belongs to one that was deleted and has begun anew: then everything is told. Raises
        DatabaseUnavailable when the database goes away while something is to be read.
        """
        position = after
        async with self._watched(tenant, session_id) as watch:
            while (newest := await watch.past(position)) is not None:
                if newest < position:
                    position = 0
                    continue
                page = await self._sessions.events(tenant, session_id, after=position, limit=PAGE)
                for event in page:
                    if event.id <= newest:
                        yield event
                        position = event.id
                if not page:  # deleted since
                    position = newest

    async def end_when_draining(self) -> None:
        """Ends all streams once the process drains: they have no end of their own, and would hold it up. Runs until cancelled."""
        while True:
            if self._draining():
                for watch in self._watches.values():
                    watch.end()
            await asyncio.sleep(DRAIN_CHECK_SECONDS)

    @contextlib.asynccontextmanager
    async def _watched(self, tenant: str, session_id: str) -> AsyncIterator[_Watch]:
        place = (tenant, session_id)
        watch = self._watches.get(place)
        if watch is None:
            watch = self._watches[place] = _Watch()
            watch.task = asyncio.create_task(self._watch(watch, tenant, session_id), name=f"watch {session_id}")
        watch.readers += 1
        try:
            yield watch
        finally:
            watch.readers -= 1
            if watch.readers == 0 and watch.task is not None:
                del self._watches[place]
                watch.task.cancel()
                await asyncio.wait([watch.task])

    async def _watch(self, watch: _Watch, tenant: str, session_id: str) -> None:
        """Keeps `watch` up to date: told by the channel, or by looking."""
        try:
            while not self._draining():
                try:
                    async with self._hotstore.subscribe(keys.session_channel(tenant, session_id)) as news:
                        await self._look(watch, tenant, session_id)
                        seconds = LOOK_SECONDS
                        while True:
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(seconds):
                                    await anext(news)
                            changed = await self._look(watch, tenant, session_id)
                            seconds = LOOK_SECONDS if changed else min(2 * seconds, LOOK_SECONDS_QUIET)
                except HotStoreUnavailable:
                    await self._look(watch, tenant, session_id)
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            watch.end()

    async def _look(self, watch: _Watch, tenant: str, session_id: str) -> bool:
        try:
            session = await self._sessions.get(tenant, session_id)
        except DatabaseUnavailable as e:
            log.warning("a session's events are not looked for: %s", e.detail)
            return True
        return watch.tell(session.event_seq if session else 0)


class _Watch:
    """The id of a session's last event, for all who follow it in this process."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.readers = 0
        self._newest: int | None = None
        self._ended = False
        self._news = asyncio.Event()

    def tell(self, newest: int) -> bool:
        """Wakes all when the id is another one; whether it is."""
        changed, self._newest = newest != self._newest, newest
        if changed:
            self._wake()
        return changed

    def end(self) -> None:
        """Nothing follows any more."""
        self._ended = True
        self._wake()

    async def past(self, position: int) -> int | None:
        """The newest id as soon as it is known and is not `position`; None at the end."""
        while not self._ended:
            if self._newest is not None and self._newest != position:
                return self._newest
            await self._news.wait()
        return None

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
