"""What the environment says to the heavy tier: its database, its LLM models. Read once, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from common.settings import CommonSettings

LEASE_SECONDS = 8.0


def _database(value: str | None) -> str | None:
    if value is not None and value.partition("://")[0] not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("must be a sqlite:/// or postgresql:// URL")
    return value


class HeavySettings(CommonSettings):
    """`database_url` defaults to SQLite in the data directory; `models` is the LLM gateway's models file. `lease_seconds` is how long a
    turn is believed to be alive without a sign of its node: so long after a node's death others take its turns over. `queue_seconds` is
    how long a message may wait for a place in a full process. `tasks_at_once` is how many tasks run here beside interactive turns, 0 for
    none. `retention_days`: sessions without news and turns are erased when they are older, `record_days`: tasks, batches and webhook
    messages that have ended, and lines of the ledger; 0 keeps them for ever. `admin_port`: where /admin and /metrics are served, and
    nowhere else; None leaves them on the port of the API."""

    database_url: Annotated[str | None, Field(repr=False), AfterValidator(_database)] = None
    models: Path | None = None
    admin_port: Annotated[int | None, Field(ge=1, le=65535)] = None
    lease_seconds: Annotated[float, Field(ge=1, le=300)] = LEASE_SECONDS
    queue_seconds: Annotated[float, Field(ge=0, le=60)] = 1.0
    tasks_at_once: Annotated[int, Field(ge=0, le=1000)] = 8
    retention_days: Annotated[float, Field(ge=0, le=36500)] = 0
    record_days: Annotated[float, Field(ge=0, le=36500)] = 30

    @property
    def database(self) -> str:
        """The database that is used."""
        return self.database_url or f"sqlite:///{self.data_dir / 'loadsplit.db'}"
