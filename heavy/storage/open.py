"""Chooses the database by URL and brings its schema up to date. Each dialect's files are imported only when asked for."""

from __future__ import annotations

from urllib.parse import urlsplit

from heavy.jobs.stores import JobStores

POSTGRES = ("postgresql", "postgres")


async def open_stores(url: str, *, pool_size: int = 10) -> JobStores:
    """The stores of `postgresql://user@host/database`, `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite:///:memory:`.

    Migrations are run first. `pool_size` bounds the connections to PostgreSQL. Raises ValueError for a URL that is none of these,
    DatabaseUnavailable when the database can't be reached or opened.
    """
    dialect = _dialect(url)
    if dialect == "postgres":
        from heavy.storage.postgres.connection import open_postgres

        return await open_postgres(url, pool_size=pool_size)
    from heavy.storage.sqlite.connection import open_sqlite

    return await open_sqlite(url)


async def migrate(url: str) -> list[str]:
    """Brings the schema up to date; the names of the migrations that were applied now. Errors as `open_stores`."""
    dialect = _dialect(url)
    if dialect == "postgres":
        from heavy.storage.postgres.connection import migrate_postgres

        return await migrate_postgres(url)
    from heavy.storage.sqlite.connection import migrate_sqlite

    return await migrate_sqlite(url)


def _dialect(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme in POSTGRES:
        return "postgres"
    if scheme == "sqlite":
        return "sqlite"
    raise ValueError(f"a database URL begins with postgresql:// or sqlite:///; this one has the scheme {scheme!r}")
