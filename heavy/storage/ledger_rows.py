"""Lines of `llm_calls` and sums of `llm_days` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from heavy.llm.legs import CallRecord
from heavy.llm.prices import NANO, nano_dollars
from heavy.llm.stores import GROUPS, Costs, Expense, Wanted
from heavy.llm.types import CallUsage, Spender, cache_writes
from heavy.storage.rows import Row, text

# The columns of `llm_calls`, in the order of the table.
COLUMNS = (
    "tenant", "call_id", "agent_id", "skill", "session_id", "turn_id", "key_id", "purpose", "alias", "target", "model", "outcome", "began",
    "seconds", "first_token_seconds", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "cost_nano", "estimated",
    "streamed", "cached_reply",
)  # fmt: skip
SUMS = ("calls", "failed", "estimated", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "cost_nano")
# The key of `llm_days`.
DAY_KEY = ("tenant", "day", "agent_id", "skill", "key_id", "model", "target", "purpose")
_COLUMN_OF = {"agent": "agent_id", "key": "key_id"}
FILTERS = ("tenant", "session_id", "turn_id", "agent_id", "key_id", "model", "outcome")
NOT_FAILED = ("ok", "cancelled")
# A server that tells nonsense must not make a line that no database takes.
MOST_TOKENS, MOST_NANO = 10**12, 10**15


def lines_of(calls: Sequence[CallRecord]) -> list[tuple[Any, ...]]:
    """The calls as tuples of COLUMNS and the UTC day, each call once, in the order of their keys: two writers at once wait for each other,
    and not each for the other."""
    lines = {(line[0], line[1]): line for line in map(_line, calls)}
    return [lines[key] for key in sorted(lines)]


def _line(call: CallRecord) -> tuple[Any, ...]:
    who, used = call.spender, call.usage
    texts = (who.tenant, call.call_id, who.agent_id, who.skill, who.session_id, who.turn_id, who.key_id, who.purpose)
    where = (call.alias, call.target, call.model, call.outcome)
    return (
        *map(text, (*texts, *where)),
        call.began,
        call.seconds,
        call.first_token_seconds,
        *(min(n, MOST_TOKENS) for n in (used.input_tokens, used.cached_tokens, cache_writes(used), used.output_tokens)),
        min(nano_dollars(used.cost_usd), MOST_NANO),
        call.estimated,
        call.streamed,
        call.cached_reply,
        day_of(call.began),
    )


def day_of(at: float) -> str:
    """The UTC day of a time, YYYY-MM-DD."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def call_of(row: Row) -> CallRecord:
    """A row of `llm_calls`."""
    who = (row["tenant"], row["agent_id"], row["skill"], row["session_id"], row["turn_id"], row["key_id"], row["purpose"])
    tokens = (row["input_tokens"], row["cached_tokens"], row["output_tokens"])
    return CallRecord(
        call_id=row["call_id"],
        spender=Spender(*who),
        alias=row["alias"],
        target=row["target"],
        model=row["model"],
        outcome=row["outcome"],
        began=row["began"],
        seconds=row["seconds"],
        first_token_seconds=row["first_token_seconds"],
        usage=CallUsage(1, *tokens, row["cost_nano"] / NANO, row["cache_write_tokens"]),
        estimated=bool(row["estimated"]),
        streamed=bool(row["streamed"]),
        cached_reply=bool(row["cached_reply"]),
    )


def grouped(group_by: Sequence[str]) -> list[str]:
    """The columns of `llm_days` that groups mean. Raises ValueError for a name that is none of GROUPS."""
    if unknown := sorted(set(group_by) - set(GROUPS)):
        raise ValueError(f"{unknown[0]!r} is no group")
    return [_COLUMN_OF.get(name, name) for name in dict.fromkeys(group_by)]


def costs_of(row: Row, group_by: Sequence[str]) -> Costs:
    """A sum over rows of `llm_days`."""
    group = {name: row[_COLUMN_OF.get(name, name)] or None for name in dict.fromkeys(group_by)}
    return Costs(group, *(int(row[name]) for name in SUMS))


def expense_of(row: Row) -> Expense:
    """Sums over `llm_days`, null where there was nothing."""
    return Expense(int(row["tokens"] or 0), int(row["cost_nano"] or 0))


def conditions(wanted: Wanted, before: tuple[float, str] | None, mark: str) -> tuple[str, list[Any]]:
    """The WHERE of a page of lines, its parameters numbered behind `mark` ($ or ?), and their values."""
    values: list[Any] = [wanted.since, wanted.until]
    parts = [f"began >= {mark}1", f"began < {mark}2"]
    for name in FILTERS:
        if (value := getattr(wanted, name)) is not None:
            values.append(value)
            parts.append(f"{name} = {mark}{len(values)}")
    if before is not None:
        parts.append(f"(began, call_id) < ({mark}{len(values) + 1}, {mark}{len(values) + 2})")
        values += before
    return " AND ".join(parts), values
