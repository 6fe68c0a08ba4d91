"""The ledger on PostgreSQL: a batch of lines and what they add to the sums of their days is one statement."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.llm.legs import CallRecord
from heavy.llm.stores import Costs, Expense, Wanted
from heavy.storage.ledger_rows import COLUMNS, DAY_KEY, NOT_FAILED, SUMS, call_of, conditions, costs_of, expense_of, grouped, lines_of
from heavy.storage.postgres.sessions import Runner

_TYPES = (*["text"] * 12, *["float8"] * 3, *["bigint"] * 5, *["bool"] * 3, "text")
_ARRAYS = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_TYPES, 1))
_COLUMNS = ", ".join(COLUMNS)
_ADDED = ", ".join(f"{name} = old.{name} + excluded.{name}" for name in SUMS)
# A line may come behind the end of its session: then it does not name it. Each session is looked up by itself (LATERAL, LIMIT): a join that
# was planned while there were few reads them all.
_KNOWN = {"session_id": "s.session_id", "turn_id": "CASE WHEN e.session_id IS NULL OR s.session_id IS NOT NULL THEN e.turn_id END"}
_VALUES = ", ".join(_KNOWN.get(name, f"e.{name}") for name in COLUMNS)
# Sums are locked in the order of their keys, so that two writers can't lock each other out. The day travels beside the columns of a line.
RECORD = f"""
WITH input AS (SELECT * FROM unnest({_ARRAYS}) AS e ({_COLUMNS}, day)),
new AS (
    INSERT INTO llm_calls ({_COLUMNS})
    SELECT {_VALUES} FROM input e LEFT JOIN LATERAL (
        SELECT session_id FROM sessions WHERE tenant = e.tenant AND session_id = e.session_id LIMIT 1) s ON true
    ON CONFLICT (tenant, call_id) DO NOTHING RETURNING tenant, call_id),
days AS (
    INSERT INTO llm_days AS old ({", ".join((*DAY_KEY, *SUMS))})
    SELECT tenant, day, COALESCE(agent_id, ''), COALESCE(skill, ''), COALESCE(key_id, ''), model, target, purpose, count(*),
        count(*) FILTER (WHERE outcome NOT IN {NOT_FAILED}), count(*) FILTER (WHERE estimated), sum(input_tokens), sum(cached_tokens),
        sum(cache_write_tokens), sum(output_tokens), sum(cost_nano)
    FROM input JOIN new USING (tenant, call_id) GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT ({", ".join(DAY_KEY)}) DO UPDATE SET {_ADDED})
SELECT count(*) AS n FROM new
"""

SPENT = """
SELECT sum(input_tokens + output_tokens)::bigint AS tokens, sum(cost_nano)::bigint AS cost_nano FROM llm_days
WHERE tenant = $1 AND day = $2 AND ($3::text IS NULL OR key_id = $3)
"""


class PostgresLedger:
    """LedgerStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def record(self, calls: Sequence[CallRecord]) -> int:
        """Stores lines and adds them to the sums; how many were new."""
        columns = [list(column) for column in zip(*lines_of(calls), strict=True)]
        return int((await self._database.fetchrow(RECORD, *columns))["n"]) if columns else 0

    async def calls(self, wanted: Wanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[CallRecord]:
        """Lines, the newest first."""
        where, values = conditions(wanted, before, "$")
        statement = f"SELECT * FROM llm_calls WHERE {where} ORDER BY began DESC, call_id DESC LIMIT ${len(values) + 1}"
        return [call_of(r) for r in await self._database.fetch(statement, *values, limit)]

    async def costs(self, tenant: str | None, *, first: str, last: str, group_by: Sequence[str], limit: int) -> Sequence[Costs]:
        """Sums over days."""
        columns = grouped(group_by)
        head = ", ".join([*columns, *(f"sum({name})::bigint AS {name}" for name in SUMS)])
        tail = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else "HAVING count(*) > 0"
        statement = f"SELECT {head} FROM llm_days WHERE day BETWEEN $1 AND $2 AND ($3::text IS NULL OR tenant = $3) {tail} LIMIT $4"
        return [costs_of(r, group_by) for r in await self._database.fetch(statement, first, last, tenant, limit)]

    async def spent(self, tenant: str, key_id: str | None, *, day: str) -> Expense:
        """What was spent on a day."""
        return expense_of(await self._database.fetchrow(SPENT, tenant, day, key_id))
