"""What keeps the stores from growing for ever: once a day what is older than the retention is erased, and every minute the sizes are told.

One process does it at a time; how far it has come stands in the database, so that another one goes on where it died. It knows no SQL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.turns.stores import DatabaseUnavailable, SessionStore

DAY = 86_400.0
EVERY_SECONDS = DAY
LOOK_SECONDS = 60.0
LEASE_SECONDS = 120.0
PAGE = 200
PAUSE_SECONDS = 0.02  # between two pages, so that the database has time for others
REPORT_SECONDS = 60.0
SIZES_SECONDS = 60.0
log = logging.getLogger(__name__)

Place = tuple[str, str]  # tenant, session id


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days what has ended is kept, None for ever: sessions without news and turns; tasks, batches, webhook messages and lines
    of the ledger."""

    conversations: float | None = None
    records: float | None = 30.0

    @property
    def nothing(self) -> bool:
        """Whether nothing is ever erased."""
        return self.conversations is None and self.records is None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a purge has come: the last session that it has looked at, how many those were, and what it has erased. Sessions come first,
    `walked` says that there are no more of them."""

    after: Place = ("", "")
    walked: bool = False
    looked: int = 0
    sessions: int = 0
    turns: int = 0
    records: int = 0

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Progress:
        """The progress of `as_json`."""
        return cls(**{**document, "after": tuple(document["after"])})


@dataclass(frozen=True, slots=True)
class Purged:
    """The last purge, or the one that runs: `finished_at` is None then. Times are Unix seconds."""

    progress: Progress
    started_at: float
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions in the order of their keys: how many, the last one of them (None behind the end), those without news since the time
    that was asked about, and the others that are older than that themselves and may hold older turns."""

    looked: int
    last: Place | None
    idle: tuple[Place, ...] = ()
    old: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows (an estimate) and bytes of tables, by name."""

    rows: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)


class UpkeepStore(Protocol):
    """What the upkeep asks of the database. Raises DatabaseUnavailable."""

    async def begin(self, owner: str, *, every_seconds: float, lease_seconds: float) -> Progress | None:
        """Takes the purge for this owner: a new one when the last has begun `every_seconds` ago, or the rest of one whose owner has died.
        None when there is nothing to do, or another owner does it."""

    async def save(self, owner: str, progress: Progress, *, lease_seconds: float, finished: bool) -> bool:
        """Notes how far the purge has come; False when this owner has it no more."""

    async def last(self) -> Purged | None:
        """The last purge, finished or not."""

    async def page(self, after: Place, *, before: float, limit: int) -> Page:
        """The next sessions behind `after`."""

    async def erase_turns(self, place: Place, *, before: float) -> int:
        """Erases the turns of a session that ended before a time, and its events from before; how many turns those were. The last turn
        stays, and so does what has not ended."""

    async def erase_records(self, *, before: float, limit: int) -> int:
        """Erases tasks that ended before a time (of batches that have ended, too), such batches, delivered and failed messages to webhooks,
        webhooks of requests that nothing names any more, and lines of the ledger that began before; at most `limit` of each. How many those
        were."""

    async def sizes(self) -> Sizes:
        """How large the tables are."""


class Purge:
    """Erases what is too old. `tell` hears of the progress: where it begins, and after each page."""

    def __init__(
        self,
        upkeep: UpkeepStore,
        sessions: SessionStore,
        hotstore: HotStore,
        retention: Retention,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._upkeep = upkeep
        self._sessions = sessions
        self._hotstore = hotstore
        self._retention = retention
        self._tell = tell

    async def once(self, owner: str, *, every_seconds: float) -> Progress | None:
        """A whole purge, if the last one has begun so long ago; what it has done, None if not, or when another owner took it over."""
        if self._retention.nothing:
            return None
        progress = await self._upkeep.begin(owner, every_seconds=every_seconds, lease_seconds=LEASE_SECONDS)
        if progress is not None:
            self._tell(progress)
        while progress is not None:
            progress, finished = await self._step(progress)
            if not await self._upkeep.save(owner, progress, lease_seconds=LEASE_SECONDS, finished=finished):
                return None
            self._tell(progress)
            if finished:
                return progress
            await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def _step(self, progress: Progress) -> tuple[Progress, bool]:
        """One page further, and whether that was the last one."""
        keep = self._retention
        if keep.conversations is not None and not progress.walked:
            return await self._walk(progress, time.time() - keep.conversations * DAY), False
        if keep.records is None:
            return progress, True
        erased = await self._upkeep.erase_records(before=time.time() - keep.records * DAY, limit=PAGE)
        return replace(progress, records=progress.records + erased), erased == 0

    async def _walk(self, progress: Progress, before: float) -> Progress:
        """The next page of sessions."""
        page = await self._upkeep.page(progress.after, before=before, limit=PAGE)
        sessions = turns = 0
        for place in page.idle:
            if await self._sessions.delete(*place, idle_since=before):
                sessions += 1
                await self._forget(place)
        for place in page.old:
            if erased := await self._upkeep.erase_turns(place, before=before):
                turns += erased
                await self._forget(place)
        return replace(
            progress,
            after=page.last or progress.after,
            walked=page.last is None,
            looked=progress.looked + page.looked,
            sessions=progress.sessions + sessions,
            turns=progress.turns + turns,
        )

    async def _forget(self, place: Place) -> None:
        """What the hot store may still hold of it."""
        try:
            await self._hotstore.delete(keys.window(*place), keys.gate(*place), keys.pending(*place))
        except HotStoreUnavailable:
            return  # it expires by itself


class Upkeep:
    """The background work of one process."""

    def __init__(
        self, upkeep: UpkeepStore, sessions: SessionStore, hotstore: HotStore, retention: Retention, metrics: Metrics, owner: str
    ) -> None:
        self._upkeep = upkeep
        self._hotstore = hotstore
        self._metrics = metrics
        self._owner = owner
        self._purge = Purge(upkeep, sessions, hotstore, retention, self._report)
        self._reported: tuple[float, Progress] | None = None

    async def purge(self) -> None:
        """Looks every minute whether a purge is due. Runs until cancelled."""
        while True:
            try:
                done = await self._purge.once(self._owner, every_seconds=EVERY_SECONDS)
            except DatabaseUnavailable as e:
                log.warning("the purge waits: %s", e.detail)
            else:
                if done is not None:
                    log.info("the purge is finished", extra=_figures(done))
            self._reported = None
            await asyncio.sleep(LOOK_SECONDS)

    async def measure(self) -> None:
        """Tells the sizes every minute. Runs until cancelled."""
        while True:
            try:
                sizes = await self._upkeep.sizes()
                for table, rows in sizes.rows.items():
                    self._metrics.database_rows.labels(table).set(rows)
                for table, size in sizes.bytes.items():
                    self._metrics.database_bytes.labels(table).set(size)
                hot = await self._hotstore.size()
                self._metrics.hotstore_keys.set(hot.keys)
                self._metrics.hotstore_bytes.set(hot.bytes)
            except (DatabaseUnavailable, HotStoreUnavailable) as e:
                log.warning("sizes are not known: %s", e.detail)
            await asyncio.sleep(SIZES_SECONDS)

    def _report(self, progress: Progress) -> None:
        """Counts what was erased since the last report; what another process has erased before it died is not counted here."""
        now = time.monotonic()
        if self._reported is None:
            self._reported = (now, progress)
            return
        at, before = self._reported
        for kind, erased in (
            ("sessions", progress.sessions - before.sessions),
            ("turns", progress.turns - before.turns),
            ("records", progress.records - before.records),
        ):
            self._metrics.purged_total.labels(kind).inc(erased)
        if now - at > REPORT_SECONDS:
            log.info("the purge goes on", extra=_figures(progress))
            at = now
        self._reported = (at, progress)


def _figures(progress: Progress) -> dict[str, int]:
    return {"looked": progress.looked, "sessions": progress.sessions, "turns": progress.turns, "records": progress.records}
