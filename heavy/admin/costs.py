"""What calls of models have cost, by day and by tenant, agent, skill, model, key or purpose."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from common.errors import InvalidRequest
from heavy.admin import charts
from heavy.admin.frame import Visit
from heavy.llm.stores import GROUPS
from heavy.routes.costs import get_costs

BY = tuple(name for name in GROUPS if name != "day")
MOST_ROWS = 200


async def costs(visit: Visit) -> Response:
    """Sums of the days asked for, the last 30 without them; the most expensive rows first."""
    asked = visit.query
    by = asked.get("by", "model")
    if by not in BY:
        raise InvalidRequest(f"by must be one of {', '.join(BY)}", field="by")
    days = {"from": asked.get("from"), "to": asked.get("to"), "tenant": asked.get("tenant")}
    found, daily = await asyncio.gather(
        visit.ask(get_costs, own=True, query={**days, "group_by": by}), visit.ask(get_costs, own=True, query={**days, "group_by": "day"})
    )
    rows: list[dict[str, Any]] = sorted(found["rows"], key=lambda row: -row["cost_usd"])
    points = [(row["day"][5:], row["cost_usd"], f"{row['day']}: ${row['cost_usd']:.6f}, {row['calls']} calls") for row in daily["rows"]]
    label = f"Cost by day from {found['from']} to {found['to']}, in US dollars"
    return visit.page(
        "costs.html", found=found, rows=rows[:MOST_ROWS], more=len(rows) - MOST_ROWS, by=by, groups=BY, chart=charts.bars(label, points)
    )
