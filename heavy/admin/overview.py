"""The overview: what the turns of the last minutes or hours come to, and what depends on what; renewed every few seconds."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from common.web.health import run_checks
from heavy.admin import charts
from heavy.admin.frame import Visit
from heavy.routes.stats import get_stats
from heavy.turns.search import RouteSum, TurnsWanted

# Name, seconds, and how many columns the chart has.
SPANS = {"15 minutes": 900.0, "1 hour": 3600.0, "6 hours": 21_600.0, "24 hours": 86_400.0}
COLUMNS = 24
# A look may take a twentieth of the time between two, so that watching costs little where there are many turns. Seconds.
OFTEN, SELDOM, PART = 5, 120, 20
MOST_COUNTED, MOST_ROUTES = 10_000, 500


async def overview(visit: Visit) -> Response:
    """The whole page."""
    return visit.page("overview.html", **await _figures(visit), spans=SPANS)


async def live(visit: Visit) -> Response:
    """What is renewed."""
    return visit.page("overview_live.html", **await _figures(visit))


async def _figures(visit: Visit) -> dict[str, Any]:
    span = visit.query.get("span", "")
    span = span if span in SPANS else "15 minutes"
    now, began = time.time(), time.perf_counter()
    since = now - SPANS[span]
    asked = {"from": datetime.fromtimestamp(since, UTC).isoformat(), "limit": 5}
    heavy = visit.heavy
    stats, checks, sums = await asyncio.gather(
        visit.ask(get_stats, query=asked),
        run_checks({"database": heavy.stores.ping, "hotstore": heavy.hotstore.ping}),
        _columns(visit, since, now),
    )
    tiers = {name: stats["by_tier"].get(name, 0) for name in ("lightweight", "heavy", "none")}
    return {
        "span": span,
        "stats": stats,
        "checks": checks,
        "tiers": tiers,
        "spent": sum(row["cost_usd"] for row in stats["cost"]["by_tenant"]),
        "inflight": heavy.owner.held[visit.visitor.tenant],
        "draining": heavy.turns.draining,
        "shares": charts.shares(
            _told(tiers, stats["turns"]), [("lightweight", tiers["lightweight"]), ("heavy", tiers["heavy"]), ("no reply", tiers["none"])]
        ),
        "chart": _chart(sums, since, now, span),
        "at": now,
        "cut": any(sum(r.turns for r in routes) >= MOST_COUNTED for routes in sums),
        "most": MOST_COUNTED,
        "every": min(max(OFTEN, math.ceil(PART * (time.perf_counter() - began))), SELDOM),
    }


async def _columns(visit: Visit, since: float, until: float) -> Sequence[Sequence[RouteSum]]:
    """Sums of equal pieces of the time."""
    step = (until - since) / COLUMNS
    pieces = [TurnsWanted(visit.visitor.tenant, since + i * step, since + (i + 1) * step) for i in range(COLUMNS)]
    return await asyncio.gather(*(visit.heavy.stores.search.routes(p, most=MOST_COUNTED, limit=MOST_ROUTES) for p in pieces))


def _chart(sums: Sequence[Sequence[RouteSum]], since: float, until: float, span: str) -> Markup:
    step, points = (until - since) / COLUMNS, []
    for i, routes in enumerate(sums):
        name = datetime.fromtimestamp(since + i * step, UTC).strftime("%H:%M")
        turns, failed = sum(r.turns for r in routes), sum(r.turns for r in routes if r.state == "failed")
        points.append((name, float(turns), f"{name} UTC: {turns} turns, {failed} failed"))
    return charts.bars(f"Turns over the last {span}, {sum(int(p[1]) for p in points)} in all", points)


def _told(tiers: Mapping[str, int], turns: int) -> str:
    return f"Of {turns} turns the rule tier answered {tiers['lightweight']}, the heavy tier {tiers['heavy']}"
