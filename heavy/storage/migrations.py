"""The numbered SQL files of each dialect, in order. It knows no database: connections apply what it lists."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

CREATE_TABLE = "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, applied_at double precision NOT NULL)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without `.sql`, and its text. Files are only ever added, never changed."""

    name: str
    sql: str

    def statements(self) -> list[str]:
        """The statements one by one; each ends with a semicolon at the end of a line."""
        return [s for part in self.sql.split(";\n") if (s := part.strip().removesuffix(";"))]


def migrations(dialect: str) -> list[Migration]:
    """All migrations of `postgres` or `sqlite`, oldest first."""
    folder = files("heavy.storage") / "schema" / dialect
    found = [Migration(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql")]
    return sorted(found, key=lambda m: m.name)
