"""The ledger on SQLite: a batch of lines and what they add to the sums of their days is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from heavy.llm.legs import CallRecord
from heavy.llm.stores import Costs, Expense, Wanted
from heavy.storage.ledger_rows import COLUMNS, DAY_KEY, NOT_FAILED, SUMS, call_of, conditions, costs_of, expense_of, grouped, lines_of
from heavy.storage.sqlite.sessions import Run

# A line may come behind the end of its session: then it does not name it.
_SESSION = "EXISTS (SELECT 1 FROM sessions WHERE tenant = ?1 AND session_id = ?5)"
_KNOWN = {5: f"CASE WHEN {_SESSION} THEN ?5 END", 6: f"CASE WHEN ?5 IS NULL OR {_SESSION} THEN ?6 END"}
_PLACES = ", ".join(_KNOWN.get(n, f"?{n}") for n in range(1, len(COLUMNS) + 1))
INSERT = f"INSERT INTO llm_calls ({', '.join(COLUMNS)}) VALUES ({_PLACES}) ON CONFLICT DO NOTHING"
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
_DAY_VALUES = (
    f"?1, ?{len(COLUMNS) + 1}, COALESCE(?3, ''), COALESCE(?4, ''), COALESCE(?7, ''), ?11, ?10, ?8, "
    f"1, ?12 NOT IN {NOT_FAILED}, ?21, ?16, ?17, ?18, ?19, ?20"
)
ADD = f"""
INSERT INTO llm_days ({", ".join((*DAY_KEY, *SUMS))}) VALUES ({_DAY_VALUES})
ON CONFLICT ({", ".join(DAY_KEY)}) DO UPDATE SET {_ADDED}
"""

SPENT = """
SELECT sum(input_tokens + output_tokens) AS tokens, sum(cost_nano) AS cost_nano FROM llm_days
WHERE tenant = ?1 AND day = ?2 AND (?3 IS NULL OR key_id = ?3)
"""


class SqliteLedger:
    """LedgerStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def record(self, calls: Sequence[CallRecord]) -> int:
        """Stores lines and adds them to the sums; how many were new."""
        lines = lines_of(calls)

        def store(c: sqlite3.Connection) -> int:
            new = 0
            for line in lines:
                if c.execute(INSERT, line[:-1]).rowcount:
                    c.execute(ADD, line)
                    new += 1
            return new

        return await self._write(store)

    async def calls(self, wanted: Wanted, *, before: tuple[float, str] | None = None, limit: int) -> Sequence[CallRecord]:
        """Lines, the newest first."""
        where, values = conditions(wanted, before, "?")
        statement = f"SELECT * FROM llm_calls WHERE {where} ORDER BY began DESC, call_id DESC LIMIT ?{len(values) + 1}"
        return [call_of(r) for r in await self._read(lambda c: c.execute(statement, (*values, limit)).fetchall())]

    async def costs(self, tenant: str | None, *, first: str, last: str, group_by: Sequence[str], limit: int) -> Sequence[Costs]:
        """Sums over days."""
        columns = grouped(group_by)
        head = ", ".join([*columns, *(f"sum({name}) AS {name}" for name in SUMS)])
        tail = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else "HAVING count(*) > 0"
        statement = f"SELECT {head} FROM llm_days WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR tenant = ?3) {tail} LIMIT ?4"
        return [costs_of(r, group_by) for r in await self._read(lambda c: c.execute(statement, (first, last, tenant, limit)).fetchall())]

    async def spent(self, tenant: str, key_id: str | None, *, day: str) -> Expense:
        """What was spent on a day."""
        return expense_of(await self._read(lambda c: c.execute(SPENT, (tenant, day, key_id)).fetchone()))
