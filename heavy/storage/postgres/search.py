"""Finding and summing turns on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.storage.postgres.sessions import Runner
from heavy.storage.rows import turn_of
from heavy.storage.search_rows import Dialect, count_unmatched, find, latency_of, measure, route_sum_of, sum_routes, unmatched_of
from heavy.turns.rows import TurnRow
from heavy.turns.search import Latency, RouteSum, TurnsWanted, Unmatched

# PostgreSQL can't read a text with \u0000 out of JSON, wherever in it that stands.
_REPLY = r"(CASE WHEN position('\u0000' in reply) = 0 THEN reply::json END)"
_REQUEST = r"(CASE WHEN position('\u0000' in request) = 0 THEN request::json END)"
DIALECT = Dialect(
    mark="$",
    request_id="""substring(request from '.*"request_id":"([A-Za-z0-9._-]+)"')""",
    message=f"({_REQUEST} ->> 'message')",
    route=f"({_REPLY} -> 'route')",
    member=lambda route, name: f"({route} ->> '{name}')",
)


class PostgresSearch:
    """TurnSearch over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def turns(self, wanted: TurnsWanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[TurnRow]:
        """Turns, the newest first."""
        statement, values = find(DIALECT, wanted, before, limit)
        return [turn_of(r) for r in await self._database.fetch(statement, *values)]

    async def routes(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[RouteSum]:
        """Sums by route."""
        statement, values = sum_routes(DIALECT, wanted, most, limit)
        return [route_sum_of(r) for r in await self._database.fetch(statement, *values)]

    async def latency(self, wanted: TurnsWanted, *, most: int) -> Sequence[Latency]:
        """How long the turns of each tier took."""
        statement, values = measure(DIALECT, wanted, most)
        return [latency_of(r) for r in await self._database.fetch(statement, *values)]

    async def unmatched(self, wanted: TurnsWanted, *, most: int, limit: int) -> Sequence[Unmatched]:
        """Messages without a rule."""
        statement, values = count_unmatched(DIALECT, wanted, most, limit)
        return [unmatched_of(r) for r in await self._database.fetch(statement, *values)]
