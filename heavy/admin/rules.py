"""Rules: which were hit, when last, which never; what was asked for without a rule; and rules that could stand for it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from common.contracts.folding import fold
from common.contracts.learned import LearnedRoute
from common.contracts.query import check_id
from common.errors import NotFound
from common.workflow.schema import Workflow
from heavy.admin.found import agents
from heavy.admin.frame import Visit
from heavy.intents.proposals import LoggedMessage, Proposal, propose
from heavy.routes.learned import forget_learned, list_learned, propose_rules
from heavy.routes.stats import get_stats
from heavy.routes.traces import list_turns

DAYS = {"1": 1, "7": 7, "30": 30}
DAY = 86_400.0
MOST = 500
MOST_SUGGESTED = 20
OFTEN = 2  # how often a message comes before a rule is worth proposing


async def rules(visit: Visit) -> Response:
    """One agent's rules with their hits of the last days."""
    served = agents(visit)
    if not served:
        raise NotFound("there is no agent yet")
    agent_id = visit.query.get("agent_id") or served[0]
    days = visit.query.get("days", "7")
    days = days if days in DAYS else "7"
    workflow = (await visit.heavy.agents.active(agent_id)).workflow
    since = datetime.fromtimestamp(time.time() - DAYS[days] * DAY, UTC).isoformat()
    path = {"agent_id": check_id(agent_id, "agent_id")}
    stats, proposed, learned, log = await asyncio.gather(
        visit.ask(get_stats, query={"agent_id": agent_id, "from": since, "limit": MOST}),
        visit.ask(propose_rules, path=path),
        visit.ask(list_learned, path=path),
        visit.ask(list_turns, query={"agent_id": agent_id, "from": since, "limit": MOST}),
    )
    return visit.page(
        "rules.html",
        agents=served,
        agent_id=agent_id,
        days=days,
        all_days=DAYS,
        rows=hits(workflow, stats["rules"]),
        complete=stats["complete"],
        unmatched=[row for row in stats["unmatched"] if row["turns"] >= OFTEN][:50],
        proposals=proposed["proposals"],
        wanted=suggested(stats["unmatched"], log["turns"]),
        learned=learned,
    )


async def forget(visit: Visit) -> Response:
    """Forgets what an agent has learned."""
    agent_id = check_id(visit.form.get("agent_id", ""), "agent_id")
    await visit.change("learned.forget", forget_learned, path={"agent_id": agent_id})
    return visit.go("/rules", "forgotten", agent_id=agent_id)


def suggested(unmatched: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]]) -> list[Proposal]:
    """Rules that could stand for messages that came often without one, each tried on the newest turns: `wrongly` counts those that a rule
    answers today. What such a rule is to do is for a person to say."""
    nothing = LearnedRoute("message", "")
    asked = [(fold(row["message"]), nothing, row["turns"]) for row in unmatched]
    logged = []
    for turn in log:
        route = turn["route"] or {}
        ruled = route.get("matched_by") in ("rule", "learned")
        action = (route["action_type"], route["action_target"]) if ruled else ("message", "")
        logged.append(LoggedMessage(turn["message_start"], *action))
    return [one for one in propose(asked, logged) if one.times >= OFTEN][:MOST_SUGGESTED]


def hits(workflow: Workflow, counted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pattern of the file with its hits, those with most first; then patterns that only turns of an older file have."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for kind, target, pattern, priority in patterns(workflow):
        found[kind, target, pattern] = {
            "kind": kind, "target": target, "pattern": pattern, "priority": priority, "hits": 0, "last_at": None, "gone": False,
        }  # fmt: skip
    sums: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in counted:
        if row["matched_by"] == "rule":
            one = sums[row["action_type"], row["action_target"] or "", row["pattern"] or ""]
            one[0] += row["hits"]
            one[1] = max(one[1], row["last_at"])
    for key, (count, last) in sums.items():
        there = found.setdefault(key, {"kind": key[0], "target": key[1], "pattern": key[2], "priority": None, "gone": True})
        there.update(hits=int(count), last_at=last)
    return sorted(found.values(), key=lambda row: (-row["hits"], row["kind"], row["target"]))


def patterns(workflow: Workflow) -> Iterator[tuple[str, str, str, int]]:
    """Kind, target, pattern and priority of every rule of the file."""
    for kind, action in workflow.actions():
        for pattern in action.trigger_patterns:
            yield kind, action.id, pattern, action.priority
