"""The pool of PostgreSQL connections: migrations, retries, and every driver error made one of ours. It knows no table but its own.

Every statement of the stores may be repeated (turn ids, fences and keys make it so), hence a failed one is retried while the
database may just be restarting; once it has been away for GRACE_SECONDS each call fails at once, until one succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import asyncpg

from heavy.configs.stores import ConfigStore
from heavy.jobs.stores import ScheduleStore, TaskStore
from heavy.jobs.upkeep import UpkeepStore
from heavy.llm.stores import LedgerStore
from heavy.storage.migrations import CREATE_TABLE, migrations
from heavy.storage.postgres.access import PostgresAccess
from heavy.storage.postgres.audit import PostgresAudit
from heavy.storage.postgres.configs import PostgresConfigs
from heavy.storage.postgres.deliveries import PostgresDeliveries
from heavy.storage.postgres.learned import PostgresLearned
from heavy.storage.postgres.ledger import PostgresLedger
from heavy.storage.postgres.schedules import PostgresSchedules
from heavy.storage.postgres.search import PostgresSearch
from heavy.storage.postgres.sessions import PostgresSessions
from heavy.storage.postgres.tasks import PostgresTasks
from heavy.storage.postgres.timers import PostgresTimers
from heavy.storage.postgres.turns import PostgresTurns
from heavy.storage.postgres.upkeep import PostgresUpkeep
from heavy.storage.postgres.webhooks import PostgresWebhooks
from heavy.tenants.audit import AuditStore
from heavy.tenants.stores import AccessStore
from heavy.turns.learned_routes import LearnedStore
from heavy.turns.search import TurnSearch
from heavy.turns.stores import DatabaseUnavailable, SessionStore, TimerStore, TurnStore
from heavy.turns.webhooks import DeliveryStore, WebhookStore

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
COMMAND_SECONDS = 5.0
MIGRATION_SECONDS = 600.0
GRACE_SECONDS = 4.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
RETRY_AFTER = 1.0
QUIET_SECONDS = 5.0
MIGRATION_LOCK = 0x6C6F6164  # "load": any number that nobody else uses for an advisory lock in this database

# Gone, going or not ready yet; class 53 is out of disk, memory or connections; 25006 a fail-over that left us on a standby.
AWAY = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg raises when it resets a connection that is just being cut
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
CONFLICT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)

T = TypeVar("T")


class Database:
    """A pool, opened on first use, and the one way to run statements on it."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        self._url, self._pool_size = url, pool_size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._away_since: float | None = None
        self._quiet_until = 0.0

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        """All rows. Raises DatabaseUnavailable; other database errors are faults of ours and pass."""
        return await self.run(lambda c: c.fetch(statement, *args))

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        """The first row or None."""
        return await self.run(lambda c: c.fetchrow(statement, *args))

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs `work` with a connection, again after a failure that may pass. It must be repeatable as a whole."""
        pause, conflicts = FIRST_PAUSE, 0
        while True:
            try:
                pool = self._pool or await self._open()
                async with pool.acquire(timeout=COMMAND_SECONDS) as connection:
                    result = await work(connection)
                self._away_since = None
                return result
            except CONFLICT:
                conflicts += 1
                if conflicts > 3:
                    raise DatabaseUnavailable("the database is busy", retry_after=RETRY_AFTER) from None
            except REFUSED as e:
                raise self._unavailable(e) from None
            except AWAY as e:
                if not self._may_retry(e):
                    raise self._unavailable(e) from None
            if self._pool is not None:  # the other idle connections are likely to be as dead as this one
                await self._pool.expire_connections()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def aclose(self) -> None:
        """Closes the pool; connections that do not end within a second are cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1):
                await pool.close()
        except (*AWAY, TimeoutError):
            pool.terminate()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=self._pool_size,
                    timeout=CONNECT_SECONDS,
                    command_timeout=COMMAND_SECONDS,
                    reset=_leave_as_it_is,
                )
            return self._pool

    def _may_retry(self, error: BaseException) -> bool:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("database away, retrying: %s", type(error).__name__)
        # A statement that ran into its time limit has waited long enough.
        return not isinstance(error, TimeoutError) and now - self._away_since < GRACE_SECONDS

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        now = time.monotonic()
        if now > self._quiet_until:  # an outage under load would write thousands of equal lines
            self._quiet_until = now + QUIET_SECONDS
            log.error("database unavailable: %s: %s", type(error).__name__, error)
        return DatabaseUnavailable("the database is unavailable", retry_after=RETRY_AFTER)


async def _leave_as_it_is(connection: Any) -> None:
    """Replaces asyncpg's reset between two users of a connection, a round trip for each statement: we set no session state."""


class PostgresStores:
    """Stores over one PostgreSQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sessions: SessionStore = PostgresSessions(database)
        self.turns: TurnStore = PostgresTurns(database)
        self.timers: TimerStore = PostgresTimers(database)
        self.learned: LearnedStore = PostgresLearned(database)
        self.tasks: TaskStore = PostgresTasks(database)
        self.schedules: ScheduleStore = PostgresSchedules(database)
        self.upkeep: UpkeepStore = PostgresUpkeep(database)
        self.webhooks: WebhookStore = PostgresWebhooks(database)
        self.deliveries: DeliveryStore = PostgresDeliveries(database)
        self.access: AccessStore = PostgresAccess(database)
        self.audit: AuditStore = PostgresAudit(database)
        self.ledger: LedgerStore = PostgresLedger(database)
        self.search: TurnSearch = PostgresSearch(database)
        self.configs: ConfigStore = PostgresConfigs(database)

    async def ping(self) -> float:
        """Seconds of one round trip."""
        start = time.perf_counter()
        await self._database.fetchrow("SELECT 1")
        return time.perf_counter() - start

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._database.aclose()


async def open_postgres(url: str, *, pool_size: int) -> PostgresStores:
    """Migrated stores. Raises DatabaseUnavailable, ValueError for a malformed URL."""
    async with AsyncExitStack() as on_failure:
        database = Database(url, pool_size=pool_size)
        on_failure.push_async_callback(database.aclose)
        await _migrate(database)
        on_failure.pop_all()
    return PostgresStores(database)


async def migrate_postgres(url: str) -> list[str]:
    """Brings the schema up to date; the names applied now."""
    database = Database(url, pool_size=1)
    try:
        return await _migrate(database)
    finally:
        await database.aclose()


async def _migrate(database: Database) -> list[str]:
    async def apply(connection: Any) -> list[str]:
        # All of it in one transaction; replicas that start together queue at the lock and then find nothing left to do.
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK, timeout=MIGRATION_SECONDS)
            await connection.execute(CREATE_TABLE)
            done = {r["name"] for r in await connection.fetch("SELECT name FROM schema_migrations")}
            applied = []
            for migration in migrations("postgres"):
                if migration.name not in done:
                    await connection.execute(migration.sql, timeout=MIGRATION_SECONDS)
                    await connection.execute("INSERT INTO schema_migrations VALUES ($1, $2)", migration.name, time.time())
                    applied.append(migration.name)
            return applied

    try:
        return await database.run(apply)
    except asyncpg.ClientConfigurationError as e:
        raise ValueError(f"the database URL is malformed: {e}") from None
