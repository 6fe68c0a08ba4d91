"""Moves rule-answered turns from the hot store's journal into the database, in batches, idempotent by turn id, each session's in the order
in which they were answered.

Two doors: `drain` runs all the time; `settle` brings one session up to date at once, before a turn or a reader needs its history.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from common.contracts.journal import JournalEntry, decode
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import JOURNAL_SILENT, HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.turns.rows import ArmTimer
from heavy.turns.stores import TurnStore

BATCH = 500
IDLE_SECONDS = (0.02, 0.05, 0.1, 0.25)
AWAY_SECONDS = 1.0
log = logging.getLogger(__name__)

FirstTimer = Callable[[str, str], Awaitable[ArmTimer | None]]


class JournalMover:
    """Owns the way from the journal to the database. `timers` says what a rule-answered turn arms, by agent id and
    config hash; `moved` hears of the entries that are in the database now (of some of them twice)."""

    def __init__(
        self,
        turns: TurnStore,
        hotstore: HotStore,
        metrics: Metrics,
        consumer: str,
        timers: FirstTimer | None = None,
        moved: Callable[[Sequence[JournalEntry]], None] = lambda entries: None,
    ) -> None:
        self._turns = turns
        self._hotstore = hotstore
        self._metrics = metrics
        self._consumer = consumer
        self._timers = timers
        self._moved = moved

    async def drain(self) -> None:
        """Runs until cancelled."""
        idle = 0
        while True:
            try:
                moved = await self.move_batch()
            except DependencyUnavailable as e:
                log.warning("journal not moved: %s", e.detail)
                await asyncio.sleep(AWAY_SECONDS)
                continue
            idle = 0 if moved else min(idle + 1, len(IDLE_SECONDS) - 1)
            if moved < BATCH:
                await asyncio.sleep(IDLE_SECONDS[idle])

    async def move_batch(self, silent: float = JOURNAL_SILENT) -> int:
        """Moves up to one batch; returns how many entries it took. `silent` as in `journal_read`."""
        items = await self._hotstore.journal_read(self._consumer, BATCH, silent)
        if not items:
            return 0
        entries = [_read(item.entry) for item in items]
        behind = {keys.pending(e.tenant, e.session_id) for item, e in zip(items, entries, strict=True) if e is not None and item.behind}
        await self._record([*await self._before(behind), *(e for e in entries if e is not None)])
        nowhere = (keys.pending("", ""), "")
        places = [(keys.pending(e.tenant, e.session_id), e.turn_id) if e is not None else nowhere for e in entries]
        await self._hotstore.journal_done([(item.id, *place) for item, place in zip(items, places, strict=True)])
        return len(items)

    async def _before(self, places: Iterable[str]) -> list[JournalEntry]:
        """All entries of these sessions that may not be in the database yet, in their order. Another process may have the earlier ones in
        hand, and may have died with them: they go first all the same."""
        waiting = await asyncio.gather(*map(self._hotstore.pending, places))
        return [e for entries in waiting for e in map(_read, entries.values()) if e is not None]

    async def settle(self, tenant: str, session_id: str) -> None:
        """Brings the database up to date for one session. Without a hot store there is nothing that could be read."""
        key = keys.pending(tenant, session_id)
        try:
            waiting = await self._hotstore.pending(key)
            if waiting:
                await self._record([e for e in map(_read, waiting.values()) if e is not None])
                await self._hotstore.journal_done([("", key, turn_id) for turn_id in waiting])
        except HotStoreUnavailable:
            return

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
