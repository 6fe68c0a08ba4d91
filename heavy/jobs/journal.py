"""Moves rule-answered turns from the hot store's journal into the database, in batches, idempotent by turn id, each session's in the order
in which they were answered.

Two doors: `drain` runs all the time, and leaves half of it to turns that are under way; `settle` brings one session up to date at once,
before a turn or a reader needs its history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.contracts.journal import JournalEntry, decode
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import JOURNAL_SILENT, HotStore, HotStoreUnavailable, JournalItem
from common.telemetry.metrics import Metrics
from heavy.turns.rows import ArmTimer
from heavy.turns.stores import TurnStore

BATCH, SMALL_BATCH = 500, 100
LONG_JOURNAL = 5_000  # entries: from there on it is moved without a rest
IDLE_SECONDS = (0.02, 0.05, 0.1, 0.25)
AWAY_SECONDS = 1.0
NOWHERE = keys.pending("", "")
log = logging.getLogger(__name__)

FirstTimer = Callable[[str, str], Awaitable[ArmTimer | None]]


@dataclass(eq=False, slots=True)
class _Asked:
    """A session that must be up to date now: its pending key, what it has in the journal, and whether somebody still waits for it."""

    key: str
    waiting: Mapping[str, JournalItem]
    awaited: bool = True


class JournalMover:
    """Owns the way from the journal to the database. `timers` says what a rule-answered turn arms, by agent id and
    config hash; `moved` hears of the entries that are in the database now (of some of them twice); `busy` says how many turns are under
    way here."""

    def __init__(
        self,
        turns: TurnStore,
        hotstore: HotStore,
        metrics: Metrics,
        consumer: str,
        timers: FirstTimer | None = None,
        moved: Callable[[Sequence[JournalEntry]], None] = lambda entries: None,
        busy: Callable[[], int] = lambda: 0,
    ) -> None:
        self._turns = turns
        self._hotstore = hotstore
        self._metrics = metrics
        self._consumer = consumer
        self._timers = timers
        self._moved = moved
        self._busy = busy
        self._asked: list[_Asked] = []
        self._settling = asyncio.Lock()

    async def drain(self) -> None:
        """Runs until cancelled. While turns are under way batches are small, since they lock their sessions, and turns get as much time as
        one took, the less the longer the journal is."""
        idle, rest = 0, 1.0
        while True:
            began, gentle = time.monotonic(), self._busy() > 0
            count = SMALL_BATCH if gentle else BATCH
            try:
                moved = await self.move_batch(count=count)
                rest = 1.0 if moved < count else max(0.0, 1 - await self._hotstore.journal_size() / LONG_JOURNAL)
            except DependencyUnavailable as e:
                log.warning("journal not moved: %s", e.detail)
                await asyncio.sleep(AWAY_SECONDS)
                continue
            idle = 0 if moved else min(idle + 1, len(IDLE_SECONDS) - 1)
            if moved < count:
                await asyncio.sleep(IDLE_SECONDS[idle])
            elif gentle:
                await asyncio.sleep(rest * (time.monotonic() - began))

    async def move_batch(self, silent: float = JOURNAL_SILENT, count: int = BATCH) -> int:
        """Moves up to `count` entries; returns how many it took. `silent` as in `journal_read`."""
        items = await self._hotstore.journal_read(self._consumer, count, silent)
        if not items:
            return 0
        entries = {item.id: _read(item.entry) for item in items}
        places = {item_id: keys.pending(e.tenant, e.session_id) if e is not None else NOWHERE for item_id, e in entries.items()}
        before = await self._before(items, {places[item.id] for item in items if item.behind})
        ordered = sorted([*items, *before], key=lambda item: item.place) if before else items
        await self._record([e for item in ordered if (e := entries.get(item.id) or before.get(item)) is not None])
        await self._hotstore.journal_done([(i, places[i], e.turn_id if e is not None else "") for i, e in entries.items()])
        return len(items)

    async def _before(self, items: Sequence[JournalItem], places: set[str]) -> dict[JournalItem, JournalEntry]:
        """Entries of these sessions that other processes have in hand. One may have died with them: they go in at their place all the
        same, twice does no harm."""
        if not places:
            return {}
        held = await self._hotstore.journal_held(self._consumer, max(items, key=lambda item: item.place).id, places)
        read = ((item, _read(item.entry)) for item in held)
        return {item: e for item, e in read if e is not None and keys.pending(e.tenant, e.session_id) in places}

    async def settle(self, tenant: str, session_id: str) -> None:
        """Brings the database up to date for one session, in one batch with others that are asked for meanwhile. Without a hot store there
        is nothing that could be read."""
        key = keys.pending(tenant, session_id)
        try:
            if waiting := await self._hotstore.pending(key):
                await self._settled(_Asked(key, waiting))
        except HotStoreUnavailable:
            return

    async def _settled(self, ask: _Asked) -> None:
        self._asked.append(ask)
        try:
            async with self._settling:
                if ask in self._asked:  # nobody has taken it along
                    await self._settle_all_asked()
        finally:
            ask.awaited = False
            if ask in self._asked:
                self._asked.remove(ask)

    async def _settle_all_asked(self) -> None:
        asked, self._asked = self._asked, []
        try:
            items = [(ask.key, turn_id, item) for ask in asked for turn_id, item in ask.waiting.items()]
            await self._record([e for _, _, item in items if (e := _read(item.entry)) is not None])
        except BaseException:  # whatever ended it, each of the others that are still there tries for itself
            self._asked = [ask for ask in asked if ask.awaited] + self._asked
            raise
        await self._hotstore.journal_done([(item.id, key, turn_id) for key, turn_id, item in items])

    async def _record(self, entries: list[JournalEntry]) -> None:
        self._metrics.journal_moved_total.inc(await self._turns.record_rule_turns(entries, await self._armed(entries)))
        self._moved(entries)

    async def _armed(self, entries: Iterable[JournalEntry]) -> dict[str, ArmTimer]:
        """The timers that these turns arm, by agent id."""
        if self._timers is None:
            return {}
        versions = dict.fromkeys((e.agent_id, str(e.reply.get("config_hash") or "")) for e in entries)
        found = [(agent_id, await self._timers(agent_id, config_hash)) for agent_id, config_hash in versions]
        return {agent_id: timer for agent_id, timer in found if timer is not None}


def _read(data: bytes) -> JournalEntry | None:
    """The entry; None for bytes of no known form, which would otherwise stand in the way of all others for ever."""
    try:
        entry = decode(data)
        return entry if entry.turn_id and entry.session_id else None
    except (ValueError, TypeError, KeyError):
        log.error("a journal entry is of no known form and is dropped: %r", data[:500])
        return None
