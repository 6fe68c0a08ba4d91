"""GET /admin/api/stats: what the turns of a time come to: how many a rule answered, what no rule was there for, latency, errors, cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import Usage
from heavy.llm.stores import LedgerStore
from heavy.routes.access import reach
from heavy.routes.costs import figures
from heavy.routes.sessions import number
from heavy.routes.state import caller_of, heavy_of
from heavy.routes.traces import moved, wanted
from heavy.turns.search import RouteSum

MOST_TURNS = 50_000  # what a database sums well within the time that a statement has
MOST_ROUTES = 5000
MAX_COST_ROWS = 1000
COST_GROUPS = ("tenant", "agent", "skill", "model")
BY_RULE = ("rule", "learned")


async def get_stats(request: Request) -> Response:
    """Sums over the newest turns of a time: ?from=&to=&agent_id=&tenant=&config_hash=&limit=. The last 24 hours unless `from` says more;
    `counted` says how many turns are in the sums, `complete` whether those are all. Costs are those of the ledger's whole UTC days."""
    caller = caller_of(request.scope)
    caller.need("admin")
    heavy = heavy_of(request.scope)
    tenant = reach(caller, request)
    asked = wanted(request, tenant)
    limit = number(request, "limit", 50, 500)
    await moved(heavy)
    search = heavy.stores.search
    # one after the other: turns need the database's cores more than this does
    routes = await search.routes(asked, most=MOST_TURNS, limit=MOST_ROUTES)
    latency = await search.latency(asked, most=MOST_TURNS)
    unmatched = await search.unmatched(asked, most=MOST_TURNS, limit=limit)
    costs = await _costs(heavy.stores.ledger, tenant, asked.since, asked.until)
    counted = sum(r.turns for r in routes)
    return JSONResponse(
        {
            "from": asked.since,
            "to": asked.until,
            "counted": counted,
            "complete": counted < MOST_TURNS and len(routes) < MOST_ROUTES,
            **shares(routes),
            "by_status": _counts(routes, lambda r: r.state),
            "by_tier": _counts(routes, lambda r: r.tier or "none"),
            "by_matched_by": _counts(routes, lambda r: r.matched_by or "none"),
            "agents": [{"agent_id": agent, **shares([r for r in routes if r.agent_id == agent])} for agent in _agents(routes)],
            "rules": rules(routes)[:limit],
            "unmatched": [asdict(u) for u in unmatched],
            "latency": [
                {
                    "tier": row.tier,
                    "turns": row.turns,
                    **{name: round(1000 * getattr(row, name), 3) for name in ("mean", "p50", "p95", "p99")},
                }
                for row in latency
            ],
            "cost": costs,
        }
    )


def shares(routes: Sequence[RouteSum]) -> dict[str, Any]:
    """How many turns there were, the shares of those that a rule matched, that called a model, and that failed, and their usage."""
    turns = sum(r.turns for r in routes)
    usage = Usage()
    for route in routes:
        usage.add(route.usage)
    return {
        "turns": turns,
        "rule_share": _share(routes, turns, lambda r: r.turns if r.matched_by in BY_RULE else 0),
        "llm_share": _share(routes, turns, lambda r: r.with_llm),
        "error_share": _share(routes, turns, lambda r: r.turns if r.state == "failed" else 0),
        "usage": asdict(usage),
    }


def rules(routes: Iterable[RouteSum]) -> list[dict[str, Any]]:
    """Which rules and learned routes were hit, how often, and when last, those with most hits first."""
    found: dict[tuple[str, str | None, str | None, str | None, str | None], dict[str, Any]] = {}
    for r in routes:
        if r.matched_by not in BY_RULE:
            continue
        key = (r.agent_id, r.matched_by, r.action_type, r.action_target, r.pattern)
        names = ("agent_id", "matched_by", "action_type", "action_target", "pattern")
        hit = found.setdefault(key, {**dict(zip(names, key, strict=True)), "hits": 0, "last_at": 0.0})
        hit["hits"] += r.turns
        hit["last_at"] = max(hit["last_at"], r.last_at)
    return sorted(found.values(), key=lambda hit: -hit["hits"])


async def _costs(ledger: LedgerStore, tenant: str | None, since: float, until: float) -> dict[str, Any]:
    first, last = (datetime.fromtimestamp(max(at, 0.0), UTC).strftime("%Y-%m-%d") for at in (since, until))
    sums = await asyncio.gather(
        *(ledger.costs(tenant, first=first, last=last, group_by=[group], limit=MAX_COST_ROWS) for group in COST_GROUPS)
    )
    named = zip(COST_GROUPS, sums, strict=True)
    return {"from": first, "to": last, **{f"by_{group}": [{**row.group, **figures(row)} for row in rows] for group, rows in named}}


def _agents(routes: Sequence[RouteSum]) -> list[str]:
    return sorted({r.agent_id for r in routes})


def _counts(routes: Sequence[RouteSum], name: Callable[[RouteSum], str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for r in routes:
        found[name(r)] = found.get(name(r), 0) + r.turns
    return found


def _share(routes: Sequence[RouteSum], turns: int, part: Callable[[RouteSum], int]) -> float:
    return round(sum(map(part, routes)) / turns, 6) if turns else 0.0
