"""SQLite in threads: one writer that commits what has gathered in one transaction, one reader beside it. It knows no table but its own.

A commit is on disk when its caller hears of it (WAL with synchronous=FULL); transactions that arrive together share one fsync.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from heavy.configs.stores import ConfigStore
from heavy.jobs.stores import ScheduleStore, TaskStore
from heavy.jobs.upkeep import UpkeepStore
from heavy.llm.stores import LedgerStore
from heavy.storage.migrations import CREATE_TABLE, migrations
from heavy.storage.sqlite.access import SqliteAccess
from heavy.storage.sqlite.audit import SqliteAudit
from heavy.storage.sqlite.configs import SqliteConfigs
from heavy.storage.sqlite.deliveries import SqliteDeliveries
from heavy.storage.sqlite.learned import SqliteLearned
from heavy.storage.sqlite.ledger import SqliteLedger
from heavy.storage.sqlite.schedules import SqliteSchedules
from heavy.storage.sqlite.search import SqliteSearch
from heavy.storage.sqlite.sessions import SqliteSessions
from heavy.storage.sqlite.tasks import SqliteTasks
from heavy.storage.sqlite.timers import SqliteTimers
from heavy.storage.sqlite.turns import SqliteTurns
from heavy.storage.sqlite.upkeep import SqliteUpkeep
from heavy.storage.sqlite.webhooks import SqliteWebhooks
from heavy.tenants.audit import AuditStore
from heavy.tenants.stores import AccessStore
from heavy.turns.learned_routes import LearnedStore
from heavy.turns.search import TurnSearch
from heavy.turns.stores import DatabaseUnavailable, SessionStore, TimerStore, TurnStore
from heavy.turns.webhooks import DeliveryStore, WebhookStore

log = logging.getLogger(__name__)

BUSY_SECONDS = 2.0  # how long another process may hold the write lock
MAX_GROUP = 64
RETRY_AFTER = 1.0

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
Job = tuple[Work, "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Worker:
    """A thread with a connection of its own. With `transactions` each job is a savepoint in a group's BEGIN IMMEDIATE … COMMIT."""

    def __init__(self, path: str, name: str, *, transactions: bool) -> None:
        self._path, self._transactions = path, transactions
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._closed = False
        self._thread.start()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in the thread; with transactions, returns after the commit. Raises DatabaseUnavailable or what `work` raised."""
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((work, future, loop))
        return await future

    async def aclose(self) -> None:
        """Lets the jobs that are queued finish, then ends the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        connection: sqlite3.Connection | None = None
        open_to_jobs = True
        while open_to_jobs:
            group: list[Job] = []
            job = self._jobs.get()
            while job is not None:
                group.append(job)
                if len(group) == MAX_GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            open_to_jobs = job is not None
            if not group:
                continue
            try:
                connection = connection or _connect(self._path, query_only=not self._transactions)
                results = self._transact(connection, group) if self._transactions else [_attempt(connection, w) for w, _, _ in group]
            except sqlite3.Error as e:
                results = [unavailable(e)] * len(group)
            _deliver(group, results)
        if connection is not None:
            connection.close()

    def _transact(self, connection: sqlite3.Connection, group: list[Job]) -> list[Any]:
        """One transaction for the group; a job that fails undoes only itself, a commit that fails undoes all."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = []
            for work, _, _ in group:
                connection.execute("SAVEPOINT job")
                result = _attempt(connection, work)
                if isinstance(result, BaseException):
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
                results.append(result)
            connection.execute("COMMIT")
            return results
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _attempt(connection: sqlite3.Connection, work: Work) -> Any:
    try:
        return work(connection)
    except sqlite3.DatabaseError as e:
        return e if isinstance(e, (sqlite3.IntegrityError, sqlite3.ProgrammingError)) else unavailable(e)
    except Exception as e:  # noqa: BLE001 - it is carried to the caller, whose await raises it: nothing is swallowed
        return e


def _deliver(group: list[Job], results: list[Any]) -> None:
    """Wakes the callers, one hop into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for (_, future, loop), result in zip(group, results, strict=True):
        by_loop.setdefault(loop, []).append((future, result))
    for loop, pairs in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def unavailable(error: sqlite3.Error) -> DatabaseUnavailable:
    """Full, locked, missing, corrupt: the log has the reason."""
    log.error("database unavailable: %s: %s", getattr(error, "sqlite_errorname", type(error).__name__), error)
    return DatabaseUnavailable("the database is unavailable", retry_after=RETRY_AFTER)


def _connect(path: str, *, query_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16000")
    if query_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches the file to WAL. A second process that does so at the same time makes SQLite say BUSY at once, whatever the time-out is."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)


class SqliteStores:
    """Stores over one SQLite file. An in-memory database has no second connection: its writer reads as well."""

    def __init__(self, path: str) -> None:
        self._writer = Worker(path, "sqlite-writer", transactions=True)
        self._reader = self._writer if path == ":memory:" else Worker(path, "sqlite-reader", transactions=False)
        self.sessions: SessionStore = SqliteSessions(self._reader.run, self._writer.run)
        self.turns: TurnStore = SqliteTurns(self._reader.run, self._writer.run)
        self.timers: TimerStore = SqliteTimers(self._writer.run)
        self.learned: LearnedStore = SqliteLearned(self._reader.run, self._writer.run)
        self.tasks: TaskStore = SqliteTasks(self._reader.run, self._writer.run)
        self.schedules: ScheduleStore = SqliteSchedules(self._reader.run, self._writer.run)
        self.upkeep: UpkeepStore = SqliteUpkeep(self._reader.run, self._writer.run)
        self.webhooks: WebhookStore = SqliteWebhooks(self._reader.run, self._writer.run)
        self.deliveries: DeliveryStore = SqliteDeliveries(self._reader.run, self._writer.run)
        self.access: AccessStore = SqliteAccess(self._reader.run, self._writer.run)
        self.audit: AuditStore = SqliteAudit(self._reader.run, self._writer.run)
        self.ledger: LedgerStore = SqliteLedger(self._reader.run, self._writer.run)
        self.search: TurnSearch = SqliteSearch(self._reader.run)
        self.configs: ConfigStore = SqliteConfigs(self._reader.run, self._writer.run)

    async def migrate(self) -> list[str]:
        """Brings the schema up to date; the names applied now."""
        return await self._writer.run(_migrate)

    async def ping(self) -> float:
        """Seconds of one hop to the reader and back."""
        start = time.perf_counter()
        await self._reader.run(lambda c: c.execute("SELECT 1 FROM sessions LIMIT 1").fetchone())
        return time.perf_counter() - start

    async def aclose(self) -> None:
        """Finishes what is queued and closes the file."""
        await self._writer.aclose()
        await self._reader.aclose()


def sqlite_path(url: str) -> str:
    """The file of sqlite:///relative, sqlite:////absolute or sqlite:///:memory:. Raises ValueError."""
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.netloc or not path:
        raise ValueError("a SQLite URL has three slashes and a path: sqlite:///data/loadsplit.db")
    return path


async def open_sqlite(url: str) -> SqliteStores:
    """Migrated stores; the file and its directory are made. Raises DatabaseUnavailable, ValueError."""
    stores, _ = await _open(url)
    return stores


async def migrate_sqlite(url: str) -> list[str]:
    """Brings the schema up to date; the names applied now."""
    stores, applied = await _open(url)
    await stores.aclose()
    return applied


async def _open(url: str) -> tuple[SqliteStores, list[str]]:
    path = sqlite_path(url)
    if path != ":memory:":
        try:
            await asyncio.to_thread(Path(path).parent.mkdir, parents=True, exist_ok=True)
        except OSError as e:
            log.error("database directory: %s", e)
            raise DatabaseUnavailable("the database is unavailable", retry_after=RETRY_AFTER) from None
    async with AsyncExitStack() as on_failure:
        stores = SqliteStores(path)
        on_failure.push_async_callback(stores.aclose)
        applied = await stores.migrate()
        on_failure.pop_all()
    return stores, applied


def _migrate(connection: sqlite3.Connection) -> list[str]:
    connection.execute(CREATE_TABLE)
    done = {r["name"] for r in connection.execute("SELECT name FROM schema_migrations")}
    applied = []
    for migration in migrations("sqlite"):
        if migration.name not in done:
            for statement in migration.statements():
                connection.execute(statement)
            connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", (migration.name, time.time()))
            applied.append(migration.name)
    return applied
