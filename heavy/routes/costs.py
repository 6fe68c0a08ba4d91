"""GET /admin/api/costs and /admin/api/calls: what calls of models have cost, in sums by day and line by line."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.errors import InvalidRequest
from heavy.llm.legs import CallRecord
from heavy.llm.prices import NANO
from heavy.llm.stores import GROUPS, Costs, Wanted
from heavy.llm.types import cache_writes
from heavy.routes.access import reach
from heavy.routes.paging import next_cursor, read_cursor
from heavy.routes.sessions import number
from heavy.routes.state import caller_of, heavy_of

MAX_ROWS, MAX_CALLS = 10_000, 1000
DEFAULT_DAYS = 30
DAY = 86400.0
FILTERS = ("session_id", "turn_id", "agent_id", "key_id", "model", "outcome")


async def get_costs(request: Request) -> Response:
    """Sums: ?from=&to=&group_by=&tenant=. Days are UTC days, both included: the last 30 without them."""
    caller = caller_of(request.scope)
    caller.need("admin")
    first, last = _days(request.query_params)
    group_by = _groups(request.query_params.get("group_by"))
    ledger = heavy_of(request.scope).stores.ledger
    rows = await ledger.costs(reach(caller, request), first=first, last=last, group_by=group_by, limit=MAX_ROWS + 1)
    if len(rows) > MAX_ROWS:
        raise InvalidRequest(f"that is more than {MAX_ROWS} rows: ask for fewer days, or group by less", field="group_by")
    return JSONResponse(
        {
            "from": first,
            "to": last,
            "group_by": group_by,
            "rows": [{**row.group, **figures(row)} for row in rows],
            "total": figures(total(rows)),
        }
    )


async def list_calls(request: Request) -> Response:
    """Lines, the newest first: ?from=&to=&session_id=&turn_id=&agent_id=&key_id=&model=&outcome=&tenant=&limit=&cursor=. The last 24 hours
    unless `from` says more."""
    caller = caller_of(request.scope)
    caller.need("admin")
    until = time_asked(request, "to", time.time())
    wanted = Wanted(reach(caller, request), time_asked(request, "from", until - DAY), until)
    given: dict[str, Any] = {name: value for name in FILTERS if (value := request.query_params.get(name)) is not None}
    limit = number(request, "limit", 100, MAX_CALLS)
    ledger = heavy_of(request.scope).stores.ledger
    calls = await ledger.calls(replace(wanted, **given), before=read_cursor(request), limit=limit)
    more = next_cursor(calls[-1].began, calls[-1].call_id) if len(calls) == limit else None
    return JSONResponse({"calls": [line(call) for call in calls], "next_cursor": more})


def figures(row: Costs) -> dict[str, Any]:
    """A sum without its group; money in US dollars."""
    document = asdict(row)
    del document["group"]
    document["cost_usd"] = document.pop("cost_nano") / NANO
    return document


def total(rows: Sequence[Costs]) -> Costs:
    """The sum over sums."""
    names = [f.name for f in fields(Costs) if f.name != "group"]
    return Costs({}, *(sum(getattr(row, name) for row in rows) for name in names))


def line(call: CallRecord) -> dict[str, Any]:
    """A line as an administrator sees it."""
    document = asdict(call)
    usage = document.pop("usage")
    return {
        "call_id": document.pop("call_id"),
        **document.pop("spender"),
        **document,
        "input_tokens": usage["input_tokens"],
        "cached_tokens": usage["cached_tokens"],
        "cache_write_tokens": cache_writes(call.usage),
        "output_tokens": usage["output_tokens"],
        "cost_usd": usage["cost_usd"],
    }


def _groups(value: str | None) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in ("day,model" if value is None else value).split(",") if name.strip()))
    if unknown := [name for name in names if name not in GROUPS]:
        raise InvalidRequest(f"group_by: {unknown[0][:64]!r} is none of {', '.join(GROUPS)}", field="group_by")
    return names


def _days(asked: Mapping[str, str]) -> tuple[str, str]:
    last = _day(asked, "to") or datetime.now(UTC).date()
    first = _day(asked, "from") or last - timedelta(days=min(DEFAULT_DAYS - 1, last.toordinal() - 1))
    if first > last:
        raise InvalidRequest("from must not be behind to", field="from")
    return first.isoformat(), last.isoformat()


def _day(asked: Mapping[str, str], name: str) -> date | None:
    value = asked.get(name)
    if value is None:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d").date()
    except ValueError:
        raise InvalidRequest(f"{name} must be a day such as 2026-11-30 (UTC)", field=name) from None


def time_asked(request: Request, name: str, default: float) -> float:
    """A query parameter that is a time, in Unix seconds. Raises InvalidRequest naming it."""
    value = request.query_params.get(name)
    if value is None:
        return default
    try:
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} must be a time such as 2026-11-30 or 2026-11-30T12:00:00Z", field=name) from None
