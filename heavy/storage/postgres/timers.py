"""Armed timers on PostgreSQL: handing out those that are due, each to one replica. Turns arm them (turn_statements, rule_turns)."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.storage.postgres.sessions import Runner
from heavy.storage.rows import timer_of
from heavy.turns.rows import TimerRow

# Two replicas that look at the same time find different timers: what the first one has locked, the second passes over.
# The time stands in the condition itself: one from a CTE would be compared with every armed timer instead of bounding the index.
DUE = """
WITH found AS (
    SELECT tenant, session_id, kind FROM timers WHERE next_at <= extract(epoch FROM now())::float8
    ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE timers t SET next_at = extract(epoch FROM now())::float8 + $1
FROM found f WHERE t.tenant = f.tenant AND t.session_id = f.session_id AND t.kind = f.kind
RETURNING t.*
"""

DONE = "DELETE FROM timers WHERE tenant = $1 AND session_id = $2 AND kind = $3 AND seq = $4 AND timer_id = $5"


class PostgresTimers:
    """TimerStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[TimerRow]:
        """Up to `limit` timers that are due, held for this caller, the longest overdue first."""
        rows = await self._database.fetch(DUE, hold_seconds, limit)
        return sorted(map(timer_of, rows), key=lambda t: t.due_at)

    async def done(self, timer: TimerRow) -> None:
        """Forgets a timer, unless it was armed anew since."""
        await self._database.fetch(DONE, timer.tenant, timer.session_id, timer.kind, timer.seq, timer.timer_id)
