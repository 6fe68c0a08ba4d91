"""Statements that find and sum turns, the same for every dialect but for how each reads JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.contracts.query import Usage
from heavy.storage.rows import Row
from heavy.turns.search import Latency, RouteSum, TurnsWanted, Unmatched

_COLUMNS = ("tenant", "session_id", "turn_id", "agent_id", "state", "config_hash")
_HAS_REQUEST = """request LIKE '%"request_id":%'"""
_SUMMED = ("llm_calls", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
_ROUTE = ("tier", "matched_by", "action_type", "action_target", "pattern")
LONGEST_MESSAGE = 200
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect writes parameters, and SQL that reads the request's id, its message, the reply's route, and a member of a route."""

    mark: str
    request_id: str
    message: str
    route: str
    member: Callable[[str, str], str]


def _conditions(dialect: Dialect, wanted: TurnsWanted) -> tuple[str, list[Any]]:
    values: list[Any] = [wanted.since, wanted.until]
    parts = [f"created_at >= {dialect.mark}1", f"created_at < {dialect.mark}2"]
    columns = {name: name for name in _COLUMNS} | {name: dialect.member(dialect.route, name) for name in ("tier", "matched_by")}
    for name, column in columns.items():
        if (value := getattr(wanted, name)) is not None:
            values.append(value)
            parts.append(f"{column} = {dialect.mark}{len(values)}")
    if wanted.request_id is not None:
        values.append(wanted.request_id)
        parts += [_HAS_REQUEST, f"{dialect.request_id} = {dialect.mark}{len(values)}"]
    return " AND ".join(parts), values


def find(dialect: Dialect, wanted: TurnsWanted, before: tuple[float, str] | None, limit: int) -> tuple[str, list[Any]]:
    """The statement of a page of turns, and its values."""
    where, values = _conditions(dialect, wanted)
    if before is not None:
        where += f" AND (created_at, turn_id) < ({dialect.mark}{len(values) + 1}, {dialect.mark}{len(values) + 2})"
        values += before
    values.append(limit)
    return f"SELECT * FROM turns WHERE {where} ORDER BY created_at DESC, turn_id DESC LIMIT {dialect.mark}{len(values)}", values


def _picked(dialect: Dialect, wanted: TurnsWanted, most: int, said: str = "NULL") -> tuple[str, list[Any]]:
    """The CTE `picked`: the newest `most` turns that are asked for, each with its route, the seconds that it took, and what was `said`."""
    where, values = _conditions(dialect, wanted)
    values.append(most)
    members = ", ".join(f"{dialect.member('route', name)} AS {name}" for name in _ROUTE)
    newest = f"SELECT * FROM turns WHERE {where} ORDER BY created_at DESC, turn_id DESC LIMIT {dialect.mark}{len(values)}"
    kept = f"tenant, agent_id, state, {', '.join(_SUMMED)}, created_at"
    return (
        f"WITH newest AS ({newest}), "
        # materialized: a reply is decoded once, and not for each member of its route
        f"parsed AS MATERIALIZED (SELECT {kept}, {said} AS said, finished_at - COALESCE(started_at, created_at) AS seconds, "
        f"{dialect.route} AS route FROM newest), picked AS (SELECT {kept}, said, seconds, {members} FROM parsed)",
        values,
    )


def sum_routes(dialect: Dialect, wanted: TurnsWanted, most: int, limit: int) -> tuple[str, list[Any]]:
    """The statement behind TurnSearch.routes, and its values."""
    picked, values = _picked(dialect, wanted, most)
    group = ", ".join(("tenant", "agent_id", "state", *_ROUTE))
    sums = ", ".join(f"sum({name}) AS {name}" for name in _SUMMED)
    return (
        f"{picked} SELECT {group}, count(*) AS turns, sum(CASE WHEN llm_calls > 0 THEN 1 ELSE 0 END) AS with_llm, "
        f"max(created_at) AS last_at, {sums} FROM picked GROUP BY {group} ORDER BY turns DESC, {group} "
        f"LIMIT {dialect.mark}{len(values) + 1}",
        [*values, limit],
    )


def measure(dialect: Dialect, wanted: TurnsWanted, most: int) -> tuple[str, list[Any]]:
    """The statement behind TurnSearch.latency, and its values. A percentile is the least duration that so many turns did not exceed."""
    picked, values = _picked(dialect, wanted, most)
    ranks = ", ".join(f"min(CASE WHEN place >= {share} * turns THEN seconds END) AS {name}" for name, share in QUANTILES.items())
    return (
        f"{picked}, placed AS (SELECT tier, seconds, row_number() OVER (PARTITION BY tier ORDER BY seconds) AS place, "
        f"count(*) OVER (PARTITION BY tier) AS turns FROM picked WHERE seconds IS NOT NULL AND state IN ('done', 'failed', 'cancelled')) "
        f"SELECT tier, count(*) AS turns, avg(seconds) AS mean, {ranks} FROM placed GROUP BY tier ORDER BY tier",
        values,
    )


def count_unmatched(dialect: Dialect, wanted: TurnsWanted, most: int, limit: int) -> tuple[str, list[Any]]:
    """The statement behind TurnSearch.unmatched, and its values."""
    picked, values = _picked(dialect, wanted, most, dialect.message)
    text = f"substr(lower(trim(said)), 1, {LONGEST_MESSAGE})"
    return (
        f"{picked} SELECT agent_id, {text} AS message, count(*) AS turns, max(created_at) AS last_at FROM picked "
        f"WHERE matched_by IN ('llm', 'none') AND trim(said) <> '' GROUP BY agent_id, {text} "
        f"ORDER BY turns DESC, last_at DESC, message LIMIT {dialect.mark}{len(values) + 1}",
        [*values, limit],
    )


def route_sum_of(row: Row) -> RouteSum:
    """A row of `sum_routes`."""
    calls, given, cached, written, cost = (row[name] for name in _SUMMED)
    return RouteSum(
        tenant=row["tenant"],
        agent_id=row["agent_id"],
        state=row["state"],
        tier=row["tier"],
        matched_by=row["matched_by"],
        action_type=row["action_type"],
        action_target=row["action_target"],
        pattern=row["pattern"],
        turns=int(row["turns"]),
        with_llm=int(row["with_llm"]),
        last_at=row["last_at"],
        usage=Usage(int(calls), int(given), int(cached), int(written), round(cost, 9)),
    )


def latency_of(row: Row) -> Latency:
    """A row of `measure`."""
    return Latency(row["tier"], int(row["turns"]), *(float(row[name]) for name in ("mean", *QUANTILES)))


def unmatched_of(row: Row) -> Unmatched:
    """A row of `count_unmatched`."""
    return Unmatched(row["agent_id"], row["message"], int(row["turns"]), row["last_at"])
