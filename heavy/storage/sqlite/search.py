"""Finding and summing turns on SQLite, in its reader's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heavy.storage.rows import turn_of
from heavy.storage.search_rows import Dialect, count_unmatched, find, latency_of, measure, route_sum_of, sum_routes, unmatched_of
from heavy.storage.sqlite.sessions import Run
from heavy.turns.rows import TurnRow
from heavy.turns.search import Latency, RouteSum, TurnsWanted, Unmatched

DIALECT = Dialect(
    mark="?",
    request_id="json_extract(request, '$.request_id')",
    message="json_extract(request, '$.message')",
    route="json_extract(reply, '$.route')",
    member=lambda route, name: f"json_extract({route}, '$.{name}')",
)


class SqliteSearch:
    """TurnSearch over SQLite."""

    def __init__(self, read: Run) -> None:
        self._read = read

    async def turns(self, wanted: TurnsWanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[TurnRow]:
        """Turns, the newest first."""
        return [turn_of(r) for r in await self._rows(*find(DIALECT, wanted, before, limit))]

    async def routes(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[RouteSum]:
        """Sums by route."""
        return [route_sum_of(r) for r in await self._rows(*sum_routes(DIALECT, wanted, most, limit))]

    async def latency(self, wanted: TurnsWanted, *, most: int) -> Sequence[Latency]:
        """How long the turns of each tier took."""
        return [latency_of(r) for r in await self._rows(*measure(DIALECT, wanted, most))]

    async def unmatched(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[Unmatched]:
        """Messages without a rule."""
        return [unmatched_of(r) for r in await self._rows(*count_unmatched(DIALECT, wanted, most, limit))]

    async def _rows(self, statement: str, values: list[Any]) -> list[Any]:
        return await self._read(lambda c: c.execute(statement, values).fetchall())
